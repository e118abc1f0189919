"""/v1/explain: the heat-map of one class over one photo."""

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

_MAX_OCCLUSIONS = 16  # occluded inputs that are queued at a time, so that other requests get their turn


async def explain_image(
    dispatcher: Dispatcher,
    receive: Receive,
    upload: Upload,
    model: LoadedModel,
    deadline: float,
    *,
    index: int | None,
    overlay: bool,
) -> Response:
    """Respond with the heat-map as a PNG.

    Raises:
        ModelReplacedError: a newer model has replaced this one, perhaps with another input size or other classes.
    """
    classifier = model.classifier
    outputs = (PROBABILITIES,) if classifier is None else (PROBABILITIES, FEATURES)
    job = Job(partial(_decode_photo, dispatcher.settings.max_pixels, model, upload), upload.name, outputs)
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
        heat = await _compute_occlusion_map(dispatcher, receive, model, job, chosen, deadline)
    picture = await dispatcher.run_drawing(lambda: saliency.draw_heatmap(heat, photo, box, overlay=overlay), deadline)
    headers = {
        "X-Class-Index": str(chosen),
        "X-Class-Name": quote(model.card.class_name(chosen)),
        "X-Method": model.explains_by,
    }
    return Response(picture, media_type="image/png", headers=headers)


def _decode_photo(max_pixels: int, model: LoadedModel, upload: Upload) -> DecodedImage:
    """The network's input; the job's context is the shrunk photo, the box of its crop, and the input."""
    preprocessing = model.card.preprocessing
    photo = decode_limited(upload.data, upload.name, max_pixels, preprocessing.decoding).picture
    box = saliency.crop_box(photo.height, photo.width, preprocessing)
    pixels = resize_and_crop(photo, preprocessing)
    return DecodedImage(pixels, photo.width, photo.height, (saliency.shrink(photo), box, pixels))


async def _compute_occlusion_map(
    dispatcher: Dispatcher, receive: Receive, model: LoadedModel, whole: Job, index: int, deadline: float
) -> saliency.Map:
    parts = saliency.occlude(whole.context[-1])
    step = max(1, min(_MAX_OCCLUSIONS, dispatcher.settings.queue // 2))
    values: list[float] = []
    for start in range(0, len(parts), step):
        jobs = [Job(partial(DecodedImage, part)) for part in parts[start : start + step]]
        await dispatcher.run_jobs(model.name, lambda _, jobs=jobs: jobs, receive, deadline, expected_model=model)  # type: ignore[misc]
        values += (float(job.values[PROBABILITIES][index]) for job in jobs)
    return saliency.occlusion_map(float(whole.values[PROBABILITIES][index]), values)
