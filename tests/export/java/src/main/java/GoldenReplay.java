import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.UnknownFieldSet;
import java.io.BufferedInputStream;
import java.io.DataInputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.tensorflow.EagerSession;
import org.tensorflow.Result;
import org.tensorflow.SavedModelBundle;
import org.tensorflow.Tensor;
import org.tensorflow.TensorFlow;
import org.tensorflow.ndarray.NdArrays;
import org.tensorflow.op.Ops;
import org.tensorflow.proto.TensorProto;
import org.tensorflow.types.TFloat32;
import org.tensorflow.types.TInt64;
import org.tensorflow.types.TString;
import org.tensorflow.types.family.TType;

/**
 * Replays the golden requests of a published version in TensorFlow for Java: {@code java -jar golden-replay.jar VERSION}.
 *
 * <p>The requests are {@code PredictionLog}s of TensorFlow Serving in a TFRecord file. Prints a line per signature and a
 * closing one. The exit code is 1 if an output differs from the recorded one by more than 1e-6, is of another shape, or if
 * nothing is recorded.
 */
public final class GoldenReplay {
  private static final String GOLDEN_FILE = "assets.extra/golden_requests";
  private static final double MAX_DIFFERENCE = 1e-6;

  // Numbers of fields in tensorflow_serving/apis: prediction_log.proto, predict.proto and model.proto.
  private static final int PREDICT_LOG = 6;
  private static final int REQUEST = 1;
  private static final int MODEL_SPEC = 1;
  private static final int SIGNATURE_NAME = 3;
  private static final int INPUTS = 2;
  private static final int RESPONSE = 2;
  private static final int OUTPUTS = 1;
  // Of an entry of a protobuf map.
  private static final int KEY = 1;
  private static final int VALUE = 2;

  /** A request with the outputs that were recorded of it. */
  private record GoldenRequest(String signature, Map<String, TensorProto> inputs, Map<String, TensorProto> outputs) {}

  /** How many requests of a signature were run, and by how much their outputs differ at most. */
  private record Replayed(int requests, double difference) {
    Replayed and(Replayed other) {
      return new Replayed(requests + other.requests, Math.max(difference, other.difference)); // NaN stays
    }
  }

  public static void main(String[] arguments) throws IOException {
    if (arguments.length != 1) {
      System.err.println("usage: java -jar golden-replay.jar VERSION");
      System.exit(2);
    }
    Path version = Path.of(arguments[0]);
    Map<String, Replayed> bySignature = new TreeMap<>();
    try (SavedModelBundle model = SavedModelBundle.load(version.toString(), "serve");
        EagerSession session = EagerSession.create()) {
      for (GoldenRequest golden : read(version.resolve(GOLDEN_FILE))) {
        Replayed replayed = new Replayed(1, replay(model, Ops.create(session), golden));
        bySignature.merge(golden.signature(), replayed, Replayed::and);
      }
    }
    bySignature.forEach((signature, each) -> System.out.printf(
        "%s: %d requests, largest difference %.1e%n", signature, each.requests(), each.difference()));
    Replayed all = bySignature.values().stream().reduce(new Replayed(0, 0), Replayed::and);
    boolean same = all.requests() > 0 && all.difference() <= MAX_DIFFERENCE; // false of NaN
    System.out.printf(
        "%s: %d golden requests in TensorFlow %s, %s%n",
        version, all.requests(), TensorFlow.version(), same ? "the recorded scores" : "NOT the recorded scores");
    System.exit(same ? 0 : 1);
  }

  /** The largest difference of an output; infinite where one is missing or of another shape. */
  private static double replay(SavedModelBundle model, Ops tf, GoldenRequest golden) {
    Map<String, Tensor> inputs = new HashMap<>();
    golden.inputs().forEach((name, value) -> inputs.put(name, tensor(tf, value)));
    double largest = 0;
    try (Result outputs = model.function(golden.signature()).call(inputs)) {
      if (outputs.size() != golden.outputs().size()) {
        return Double.POSITIVE_INFINITY;
      }
      for (Map.Entry<String, TensorProto> recorded : golden.outputs().entrySet()) {
        TFloat32 expected = (TFloat32) tensor(tf, recorded.getValue());
        Tensor got = outputs.get(recorded.getKey()).orElse(null);
        if (got == null || !got.shape().equals(expected.shape())) {
          return Double.POSITIVE_INFINITY;
        }
        largest = Math.max(largest, largestDifference((TFloat32) got, expected));
      }
    }
    return largest;
  }

  private static double largestDifference(TFloat32 got, TFloat32 expected) {
    double[] largest = {0};
    got.scalars().forEachIndexed((at, score) -> {
      double difference = Math.abs((double) score.getFloat() - expected.getFloat(at));
      largest[0] = Math.max(largest[0], difference);
    });
    return largest[0];
  }

  /** TensorFlow itself knows all the ways in which a proto may hold its values. */
  private static Tensor tensor(Ops tf, TensorProto proto) {
    TString serialized = TString.tensorOfBytes(NdArrays.scalarOfObject(proto.toByteArray()));
    return tf.io.parseTensor(tf.constantOf(serialized), type(proto)).asTensor();
  }

  private static Class<? extends TType> type(TensorProto proto) {
    return switch (proto.getDtype()) {
      case DT_STRING -> TString.class;
      case DT_FLOAT -> TFloat32.class;
      case DT_INT64 -> TInt64.class;
      default -> throw new IllegalArgumentException("no input or output of a ranker is " + proto.getDtype());
    };
  }

  private static List<GoldenRequest> read(Path file) throws IOException {
    List<GoldenRequest> requests = new ArrayList<>();
    try (DataInputStream records = new DataInputStream(new BufferedInputStream(Files.newInputStream(file)))) {
      for (records.mark(1); records.read() >= 0; records.mark(1)) {
        records.reset();
        // A record of a TFRecord file: its length (little-endian), a checksum of that, the record, a checksum of it.
        int length = Math.toIntExact(Long.reverseBytes(records.readLong()));
        records.skipNBytes(4);
        byte[] record = new byte[length];
        records.readFully(record);
        records.skipNBytes(4);
        requests.add(goldenRequest(record));
      }
    }
    return requests;
  }

  private static GoldenRequest goldenRequest(byte[] record) throws InvalidProtocolBufferException {
    // TensorFlow Serving's own messages are not in TensorFlow's package: they are read by the numbers of their fields.
    UnknownFieldSet log = message(UnknownFieldSet.parseFrom(record), PREDICT_LOG);
    UnknownFieldSet request = message(log, REQUEST);
    String signature = text(message(request, MODEL_SPEC), SIGNATURE_NAME);
    return new GoldenRequest(signature, tensors(request, INPUTS), tensors(message(log, RESPONSE), OUTPUTS));
  }

  private static UnknownFieldSet message(UnknownFieldSet parent, int field) throws InvalidProtocolBufferException {
    return UnknownFieldSet.parseFrom(parent.getField(field).getLengthDelimitedList().get(0));
  }

  private static String text(UnknownFieldSet parent, int field) {
    return parent.getField(field).getLengthDelimitedList().get(0).toStringUtf8();
  }

  private static Map<String, TensorProto> tensors(UnknownFieldSet parent, int field)
      throws InvalidProtocolBufferException {
    Map<String, TensorProto> tensors = new TreeMap<>();
    for (var entry : parent.getField(field).getLengthDelimitedList()) {
      UnknownFieldSet keyAndValue = UnknownFieldSet.parseFrom(entry);
      var value = keyAndValue.getField(VALUE).getLengthDelimitedList().get(0);
      tensors.put(text(keyAndValue, KEY), TensorProto.parseFrom(value));
    }
    return tensors;
  }
}
