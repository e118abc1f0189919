"""A finished run predicts as its file does."""

import shutil

import numpy as np
import pytest

pytest.importorskip("torch")

from vertebra.runtime.predictor import Predictor
from vertebra.synthetic_photos import synthetic_photos
from vertebra.train import Classifier


def test_a_run_takes_what_its_file_takes(tiny_model, tmp_path):
    shutil.copy(tiny_model, tmp_path / "model.onnx")
    run, file = Classifier(tmp_path), Predictor(tiny_model)
    images = synthetic_photos(2, 40)
    assert run.classes == file.classes == ["cat", "dog", "fish"]
    assert run(images[0], top=2).predictions == run.predict(images[0], top=2).predictions
    wanted = [result.embedding for result in file.predict_many(images, embed=True)]
    assert np.array_equal([result.embedding for result in run.predict_many(images, embed=True)], wanted)
    with pytest.raises(ValueError, match="how floats were scaled"):
        run(images[0] / 255)
    values = file.card.preprocessing
    cut = np.zeros((3, 32, 32)) - np.reshape(values.mean, (3, 1, 1))
    black = run(cut / np.reshape(values.std, (3, 1, 1)), embed=True, preprocessed=True)
    assert np.array_equal(black.embedding, file.embeddings(np.zeros((1, 32, 32, 3), np.uint8))[0])
