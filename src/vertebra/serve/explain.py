"""/v1/explain: one photo, one class, and a heat-map of the evidence for it."""

from __future__ import annotations

from functools import partial
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Receive

from vertebra.pixels import resize_and_crop
from vertebra.runtime.engine import FEATURES, PROBABILITIES

from . import saliency
from .api_errors import ApiError
from .dispatcher import Dispatcher
from .image_decoding import decode_limited
from .job import DecodedImage, Job
from .loaded_model import LoadedModel
from .request_images import Upload

_OCCLUSIONS = 16  # occluded inputs that are queued at a time, so that other requests come in between


async def explained(
    dispatcher: Dispatcher,
    receive: Receive,
    upload: Upload,
    model: LoadedModel,
    deadline: float,
    *,
    index: int | None,
    overlay: bool,
) -> Response:
    """A PNG, by one version of a model from the photo to the picture.

    Raises:
        ModelReplacedError: a newer one has taken its place meanwhile; it may want other pixels, and have other classes.
    """
    classifier = model.classifier
    outputs = (PROBABILITIES,) if classifier is None else (PROBABILITIES, FEATURES)
    job = Job(partial(_decode, dispatcher.settings.max_pixels, model, upload), upload.name, outputs)
    await dispatcher.run_jobs(model.name, lambda _: [job], receive, deadline, expected_model=model)
    if job.error is not None:
        raise ApiError(422, job.error)
    if index is not None and index >= model.classes:
        raise ApiError(422, f"index is {index}; {model.name!r} has the classes 0 to {model.classes - 1}.")
    photo, box, _ = job.context
    chosen = int(job.values[PROBABILITIES].argmax()) if index is None else index
    if classifier is not None:
        heat = saliency.activation_map(classifier, job.values[FEATURES], chosen)
    else:
        heat = await _occlusion(dispatcher, receive, model, job, chosen, deadline)
    picture = await dispatcher.run_drawing(lambda: saliency.draw(heat, photo, box, overlay=overlay), deadline)
    headers = {
        "X-Class-Index": str(chosen),
        "X-Class-Name": quote(model.card.class_name(chosen)),
        "X-Method": model.explains_by,
    }
    return Response(picture, media_type="image/png", headers=headers)


def _decode(max_pixels: int, model: LoadedModel, upload: Upload) -> DecodedImage:
    """The network's input; kept are the photo in a handy size, the box of its crop, and the input again."""
    preprocessing = model.card.preprocessing
    photo = decode_limited(upload.data, upload.name, max_pixels, preprocessing.decoding).picture
    box = saliency.crop_box(photo.height, photo.width, preprocessing)
    pixels = resize_and_crop(photo, preprocessing)
    return DecodedImage(pixels, photo.width, photo.height, (saliency.shrunk(photo), box, pixels))


async def _occlusion(
    dispatcher: Dispatcher, receive: Receive, model: LoadedModel, whole: Job, index: int, deadline: float
) -> saliency.Map:
    """What the class loses at each place."""
    parts = saliency.occluded(whole.context[-1])
    some = max(1, min(_OCCLUSIONS, dispatcher.settings.queue // 2))
    values: list[float] = []
    for start in range(0, len(parts), some):
        jobs = [Job(partial(DecodedImage, part)) for part in parts[start : start + some]]
        await dispatcher.run_jobs(model.name, lambda _, jobs=jobs: jobs, receive, deadline, expected_model=model)  # type: ignore[misc]
        values += (float(job.values[PROBABILITIES][index]) for job in jobs)
    return saliency.occlusion_map(float(whole.values[PROBABILITIES][index]), values)
