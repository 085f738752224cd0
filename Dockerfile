# The image of Beam's workers, for every runner that starts or talks to containers (docs/running-on-clusters.md).
# Workers run beam_pipelines alone: no TensorFlow. Use the Python and the Beam of the submitting machine.
FROM apache/beam_python3.11_sdk:2.77.0
WORKDIR /opt/courier-ranking
COPY .ci/constraints-3.11.txt pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir --constraint constraints-3.11.txt \
    apache-beam array-record fsspec google-crc32c numpy pillow pyarrow pydantic tqdm typing-extensions universal-pathlib s3fs
COPY beam_pipelines beam_pipelines
RUN pip install --no-cache-dir --no-deps .
