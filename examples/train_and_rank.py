"""Pre-trains an encoder, turns pictures into cluster IDs, trains a ranker on them and scores later pages.

    python -m beam_pipelines.build --runner=DirectRunner   # the dataset, from the shipped sample
    python examples/train_and_rank.py

Everything is Keras: your own callbacks, metrics, optimizers and losses go where Keras has them.
"""

import argparse
from pathlib import Path

import keras

from models import GAUC, Courier, Dataset, EncoderRun, ImageEncoder, Ranker, cluster, embed, show_progress


def main(dataset: Path, work: Path, encoder_epochs: int = 8, ranker_epochs: int = 7) -> float:
    """Trains on `dataset`, writes into `work`, and returns the GAUC of the later pages."""
    data = Dataset(dataset)

    # The encoder learns on the pages before those that the ranker learns on.
    encoder = ImageEncoder.from_preset("courier_cpu")
    courier = Courier(encoder)
    courier.compile("adam")
    pages = data.pretraining(image_size=(48, 32))
    courier.fit(pages.batches(64), epochs=encoder_epochs)

    # What is saved says where it comes from: a ranker refuses pictures of other items, or of an encoder that has seen
    # the pages which the ranker learns on.
    run = EncoderRun.save(work / "encoder", encoder, **pages.provenance)
    embeddings = embed(data, run, work / "embeddings", overwrite=True)
    clusters = cluster(embeddings, work / "clusters", overwrite=True)

    train, later = data.pages("train").split(0.9)
    ranker = Ranker.adapt(train, pictures=clusters)
    ranker.compile(metrics=[GAUC()])
    ranker.fit(
        train.batches(64, shuffle=True),
        validation_data=later.batches(128),
        epochs=ranker_epochs,
        callbacks=[keras.callbacks.EarlyStopping("val_gauc", mode="max", patience=3, restore_best_weights=True)],
    )

    ranker.save(work / "ranker.keras")
    ranker = keras.models.load_model(work / "ranker.keras")
    scores = ranker.predict(later.batches(128))["ctr"]
    gauc = GAUC()
    for start, (_, clicked, mask) in enumerate(later.batches(128)):
        gauc.update_state(clicked, scores[128 * start : 128 * start + len(mask), : mask.shape[1]], mask)
    return float(gauc.result())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("artifacts/dataset"))
    parser.add_argument("--work", type=Path, default=Path("artifacts/example"))
    options = parser.parse_args()
    show_progress()
    print(f"GAUC of later pages: {main(options.dataset, options.work):.4f}")
