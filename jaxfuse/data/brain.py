"""Brain and background: the one answer to which voxels of a case are brain.

An image has a background where one value, or noise around it, fills what surrounds the head. Distances from that value
are measured in the image's *contrast*: the 95th percentile of the distances of those voxels that differ from it. One
hot voxel does not change it.

The background of an image is the most common value of its border (the outermost voxels), or, where no value fills 1 %
of the border, the border's median. It is

* *constant* where, of the voxels within 1 % of the contrast, 95 % of those of the border and 90 % of all have exactly
  this value;
* *noise* where not, but at least 10 % of the border is within 3 % of the contrast, and hardly any voxel of the border
  lies between 3 and 5 %: 95 % of those within 5 % are within 3 %;
* *not told* otherwise, and where more than 5 % of the other voxels are below a value that is not 0.

A voxel is brain where at least one image whose background is told differs from it by more than 1 % of the contrast, or
3 % in noise. Around a constant background voxels that differ by less count too, if such a voxel lies within two voxels
of them; in noise only voxels within two voxels of a place where most of the neighbors differ. Islands of less than
0.2 % of the largest part are dropped, then holes are filled. So an image whose background is exactly 0 has its non-zero
voxels for brain, but for islands and holes. Where the background of no image is told, every voxel is brain. Images that
are constant throughout have no say.

The arrays of prepared cases are exactly 0 outside their brain, and say by `shown` what they show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Shaped
from scipy import ndimage

from jaxfuse.data.apart import Apart, apart_from, beyond, differs, distances_from
from jaxfuse.data.memory_order import in_memory_order, memory_order
from jaxfuse.data.parts import parts_of
from jaxfuse.errors import UserError

AUTO, NONE = "auto", "none"
# Shares of the contrast; the percentile that is the contrast.
NEAR, NOISE, AROUND, CONTRAST = 0.01, 0.03, 0.05, 95
# Shares of voxels, in the order of the definition above.
COMMON, EXACT, EXACT_IN_ALL, BORDER, SETTLED, BELOW, ISLAND = 0.01, 0.95, 0.9, 0.1, 0.95, 0.05, 0.002
# Voxels that must share a value to make it common, and the width of a rim.
FEWEST, RIM = 8, 2
_ADVICE = "strip the skull, set the background to 0, or state it by data.background"
# What lies further below the bulk of an image than the bulk is wide belongs to single voxels.
BULK = (0.1, 99.9)

Image = Shaped[np.ndarray, "*space"]
Mask = Bool[np.ndarray, "*space"]
Channels = Sequence[Image] | Shaped[np.ndarray, "*space m"]


@dataclass(frozen=True)
class Background:
    """The background of one image.

    Attributes:
        value: as stored.
        reach: distance from it within which voxels may be background.
        noisy: whether all of these are background; else only those of exactly this value are.
    """

    value: float
    reach: float
    noisy: bool = False


@dataclass(frozen=True)
class BackgroundRule:
    """A user's statement of the background.

    Attributes:
        text: "auto": it is told from the images; "none": there is none; a number: its value in all images; or values by
            modality, such as "t1=-5.3,flair=0".
        stated: the values by modality; that of "" is for all.
    """

    text: str = AUTO
    stated: Mapping[str, float] = field(default_factory=dict)

    def of(self, modality: str) -> float | None:
        """Returns the value that is stated for a modality; None where it is to be told from the image."""
        return self.stated.get(modality, self.stated.get(""))


TOLD = BackgroundRule()


@dataclass(frozen=True)
class Brain:
    """The brain of a case.

    Attributes:
        mask: its voxels.
        backgrounds: of each image; None where it is not told, or not asked for.
    """

    mask: Mask
    backgrounds: tuple[Background | None, ...]


def background_rule(text: str, modalities: Sequence[str] = ()) -> BackgroundRule:
    """Reads a rule, as `BackgroundRule` has it.

    Raises:
        UserError: it is not understood, or states a value for none of the `modalities`, where they are given.
    """
    if text in (AUTO, NONE):
        return BackgroundRule(text)
    stated: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.rpartition("=")
        stated[name.strip()] = _number(value)
    if not np.isfinite(list(stated.values())).all() or ("" in stated and len(stated) > 1):
        raise UserError(
            f"the background {text!r} is not understood; give auto, none, one number, or one for each modality such as "
            "t1=-5.3,flair=0"
        )
    if unknown := [name for name in stated if name and modalities and name not in modalities]:
        raise UserError(f"the background {text!r} names {', '.join(unknown)}; the images are {', '.join(modalities)}")
    return BackgroundRule(text, stated)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def find_brain(images: Channels, modalities: Sequence[str] = (), rule: BackgroundRule = TOLD) -> Brain:
    """Finds the brain of a case, a volume or a picture, from its images as stored.

    Args:
        images: one by one, or as the channels of an array.
        modalities: their names, by which `rule` may state values.
    """
    found = find_backgrounds(images, modalities, rule)
    channels = _channels(images)
    if rule.text == NONE:
        return Brain(np.ones(channels[0].shape, bool), found)
    if not any(found):
        # Constant images show nothing: a case of such images alone has no brain.
        return Brain(np.full(channels[0].shape, any(one.min() != one.max() for one in channels)), found)
    order = memory_order(channels[0])
    told = [(order.laid(one), background) for one, background in zip(channels, found, strict=True) if background]
    return Brain(order.back(_brain(told)), found)


def surely_shown(images: Sequence[Image], backgrounds: Sequence[Background | None]) -> Mask | None:
    """Marks voxels that differ from the background in an image, islands among them: quicker than the whole brain.

    None where a background is not told, or is noise, from which a voxel alone cannot be told.
    """
    if not images or any(one is None or one.noisy for one in backgrounds):
        return None
    found = np.zeros(images[0].shape, bool)
    for image, background in zip(images, backgrounds, strict=True):
        if background is not None:
            found |= beyond(image, background.value, background.reach)
    return found


def find_backgrounds(
    images: Channels, modalities: Sequence[str] = (), rule: BackgroundRule = TOLD
) -> tuple[Background | None, ...]:
    """Finds the background of each image of a case; None where it is not told, or said to be none."""
    channels = _channels(images)
    if rule.text == NONE:
        return (None,) * len(channels)
    names = modalities or ("",) * len(channels)
    return tuple(find_background(one, rule.of(name)) for one, name in zip(channels, names, strict=True))


def find_background(image: Image, stated: float | None = None) -> Background | None:
    """Finds the background of an image; None where it is not told.

    Args:
        stated: its value, where it is known; it is then constant, or noise around it.
    """
    image = in_memory_order(image)
    if image.min() == image.max():
        return None if stated is None else Background(stated, 0.0)
    border = _border(image)
    if stated is not None:
        apart = apart_from(image, stated)
        contrast = apart.percentile(CONTRAST)
        constant = _is_constant(apart, apart_from(border, stated), NEAR * contrast)
        return Background(stated, (NEAR if constant else NOISE) * contrast, noisy=not constant)
    found = (_background_at(image, border, value) for value in _candidates(border))
    return next((one for one in found if one is not None), None)


def background_problems(names: Sequence[str], backgrounds: Sequence[Background | None]) -> list[str]:
    """Says in a clause each what a person should know of the backgrounds of a case's images, by their names."""
    told = any(one is not None for one in backgrounds)
    counts = "the brain is that of the other images" if told else "every voxel counts as brain"
    found = []
    for name, one in zip(names, backgrounds, strict=True):
        if one is None:
            what = "neither one value nor low noise around the head"
            found.append(f"{name} has no background that can be told, {what}: {counts}; {_ADVICE}")
        elif one.noisy:
            found.append(
                f"{name} has noise for its background: values within {one.reach:.3g} of {one.value:.3g} count as such"
            )
        elif one.value != 0:
            found.append(f"{name} has the background {one.value:g}, not 0: voxels of this value count as such")
    return found


def untold(cases: Mapping[str, Sequence[float | None]]) -> str:
    """Says in one sentence which cases have images whose background cannot be told; empty where none has.

    `cases`: by id, the backgrounds of `CaseFacts`.
    """
    some = [name for name, values in cases.items() if None in values]
    if not some:
        return ""
    every = sum(all(value is None for value in cases[name]) for name in some)
    brain = "every voxel counts as brain" if every == len(some) else f"in {every} of them every voxel counts as brain"
    return (
        f"the background of {len(some)} of {len(cases)} cases cannot be told in some image (the first is {some[0]}): "
        f"{brain}; {_ADVICE}"
    )


def low_end(image: Image, background: Background | None) -> float:
    """Returns the stored value at the dark end of an image: its background, unless much of the image lies below it.

    Else the least value, single ones far below all others left aside.
    """
    if background is not None and _share_below(image, background.value, background.reach) <= BELOW:
        return background.value
    low, high = np.percentile(image, BULK)
    return float(image[image >= low - (high - low)].min())


def shown(prepared: Shaped[np.ndarray, "*space m"]) -> Mask:
    """Marks what at least one channel of a prepared image shows: there, 0 is background and nothing else is."""
    return np.any(prepared != 0, axis=-1)


def within(image: Image, mask: Mask) -> Image:
    """Returns an image that is exactly 0 outside the mask."""
    return np.where(mask, image, image.dtype.type(0))


def _channels(images: Channels) -> list[Image]:
    """The images of a case one by one, each in one piece."""
    if isinstance(images, np.ndarray):
        return [np.ascontiguousarray(images[..., channel]) for channel in range(images.shape[-1])]
    return list(images)


def _border(image: Image) -> Shaped[np.ndarray, " n"]:
    """Returns the outermost voxels, side by side; axes of fewer than three are all border, and do not count."""
    sides, rest = [], image
    for axis, side in enumerate(image.shape):
        if side >= 3:
            before = (slice(None),) * axis
            sides += [rest[(*before, place)].ravel() for place in (0, -1)]
            rest = rest[(*before, slice(1, -1))]
    return np.concatenate(sides) if sides else image.ravel()


def _candidates(border: Shaped[np.ndarray, " n"]) -> Iterator[float]:
    """Yields the values that may be the background."""
    if border.min() == border.max():
        yield float(border[0])
        return
    values, counts = np.unique(border, return_counts=True)
    common = counts.argmax()
    if counts[common] >= max(FEWEST, COMMON * border.size):
        yield float(values[common])
    yield float(np.median(border))


def _background_at(image: Image, border: Shaped[np.ndarray, " n"], value: float) -> Background | None:
    """Returns the background of this value, or of noise around it; None where it is none."""
    apart = apart_from(image, value)
    contrast = apart.percentile(CONTRAST)
    if value != 0 and _share_below(image, value, NOISE * contrast) > BELOW:
        return None
    if _is_constant(apart, apart_from(border, value), NEAR * contrast):
        return Background(value, NEAR * contrast)
    # Whole numbers are noise around any of several common ones.
    middle = float(np.median(border[distances_from(border, value) <= AROUND * contrast]))
    distances = distances_from(border, middle)
    close, around = (int(np.count_nonzero(distances <= share * contrast)) for share in (NOISE, AROUND))
    told = close >= BORDER * border.size and close >= SETTLED * around
    return Background(middle, NOISE * contrast, noisy=True) if told else None


def _is_constant(in_all: Apart, at_border: Apart, reach: float) -> bool:
    for apart, share in ((at_border, EXACT), (in_all, EXACT_IN_ALL)):
        if not apart.exact or apart.exact < share * apart.near(reach):
            return False
    return True


def _share_below(image: Image, value: float, reach: float) -> float:
    """Returns how many of the voxels that are not near to a value lie below it."""
    below = np.count_nonzero(image < value - reach)
    beyond = below + np.count_nonzero(image > value + reach)
    return below / beyond if beyond else 0.0


def _brain(told: Sequence[tuple[Image, Background]]) -> Mask:
    """Returns the brain by images whose background is told."""
    mask = np.zeros(told[0][0].shape, bool)
    apart = np.zeros(mask.shape, bool)
    for image, background in told:
        reach = background.reach
        apart |= beyond(image, background.value, reach) if background.noisy else differs(image, background.value)
    if not apart.any():
        return mask
    box = _box(apart, RIM)
    sure, noisy, faint = _marked([(image[box], background) for image, background in told])
    either = sure | noisy
    if not either.any():
        return mask
    inner = _box(either, RIM)
    sure, noisy, faint, either = sure[inner], noisy[inner], faint[inner], either[inner]
    if noisy.any():
        sure |= noisy & _around(_mostly(either))
    faint &= ~sure
    if faint.any():
        sure |= faint & _around(sure)
    mask[box][inner] = _without_holes(_without_islands(sure))
    return mask


def _marked(told: Sequence[tuple[Image, Background]]) -> tuple[Mask, Mask, Mask]:
    """Marks what is surely no background, what differs from a noisy one, and what at all from a constant one."""
    sure, noisy, faint = (np.zeros(told[0][0].shape, bool) for _ in range(3))
    for image, background in told:
        far = beyond(image, background.value, background.reach)
        if background.noisy:
            noisy |= far
        else:
            sure |= far
            faint |= differs(image, background.value)
    return sure, noisy, faint


def _mostly(mask: Mask) -> Mask:
    """Marks voxels that most of their block of three along each axis are marked with, themselves among it."""
    counts = mask.view(np.uint8)
    for axis in range(mask.ndim):
        counts = ndimage.correlate1d(counts, [1, 1, 1], axis)
    return counts > 3**mask.ndim // 2


def _around(mask: Mask) -> Mask:
    """Marks what lies within two voxels of a mask."""
    return ndimage.maximum_filter(mask.view(np.uint8), 2 * RIM + 1) > 0


def _without_islands(mask: Mask) -> Mask:
    """Drops parts of less than 0.2 % of the voxels of the largest; parts that touch at a corner are one."""
    parts = parts_of(mask, corners=True)
    sizes = parts.sizes()
    kept = sizes >= max(1, ISLAND * sizes.max())
    return mask if kept.all() else parts.mask_of(kept)


def _without_holes(mask: Mask) -> Mask:
    """Fills what is enclosed on all sides."""
    parts = parts_of(~mask, corners=False)
    enclosed = ~parts.at_faces()
    return mask | parts.mask_of(enclosed) if enclosed.any() else mask


def _box(mask: Mask, reach: int) -> tuple[slice, ...]:
    """Returns the box of the true voxels, wider by `reach` where the image goes on."""
    box = []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(int(along[0]) - reach, 0), min(int(along[-1]) + 1 + reach, mask.shape[axis])))
    return tuple(box)
