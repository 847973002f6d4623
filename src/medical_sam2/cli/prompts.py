"""The prompts of a command line: options and numbers become points, boxes and outlines, in a volume or on images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from medical_sam2 import io
from medical_sam2.cli.options import FLAG, PIXELS, REPEATED, VOXELS, WITH_HYPHENS, check_threshold, parse_numbers
from medical_sam2.errors import AmbiguousError, ConfigError, InputError, MedicalSam2Error, PromptError
from medical_sam2.io.coordinates import Places
from medical_sam2.io.image_folder import ImageFolder
from medical_sam2.io.labels import MaskRule, Outline, is_lossy, labels_in, outlines, read_label_map
from medical_sam2.io.prompt_file import (
    NamedPrompts,
    check_limits_given_once,
    describe_shared_names,
    load_prompts,
    masks_from,
)
from medical_sam2.prompts import FramePrompt, Mask, Prompt, check_frame_prompt, check_object
from medical_sam2.strokes import (
    Diameter,
    Lasso,
    Scribble,
    ShapeInterpolation,
    SliceRange,
    Stroke,
    diameter_prompt,
    lasso_prompt,
    scribble_prompt,
)
from medical_sam2.tracking.plan import check_named
from medical_sam2.volume import Volume

STROKES: tuple[tuple[str, type[Stroke], bool], ...] = (
    ("scribble", Scribble, True),
    ("negative_scribble", Scribble, False),
    ("lasso", Lasso, True),
    ("negative_lasso", Lasso, False),
    ("diameter", Diameter, True),
)
VoxelWords = Annotated[tuple[str, ...], WITH_HYPHENS, Parameter(metavar=VOXELS["--point"])]
VoxelBoxWords = Annotated[tuple[str, ...], WITH_HYPHENS, Parameter(metavar=VOXELS["--box"])]
VoxelLineWords = Annotated[tuple[str, ...], WITH_HYPHENS, Parameter(metavar=VOXELS["--scribble"])]
SliceWords = Annotated[tuple[str, ...], WITH_HYPHENS, Parameter(metavar=VOXELS["--slices"])]
PixelWords = Annotated[tuple[str, ...], WITH_HYPHENS, Parameter(metavar=PIXELS["--point"])]
PixelBoxWords = Annotated[tuple[str, ...], WITH_HYPHENS, Parameter(metavar=PIXELS["--box"])]
PixelLineWords = Annotated[tuple[str, ...], WITH_HYPHENS, Parameter(metavar=PIXELS["--scribble"])]
GIVE_PROMPT = "give --point I J K, --box, --mask or --prompts"
POINTED = ("point", "negative", "box", "negative_box", "slices", *(option for option, _, _ in STROKES))


@Parameter(name="*", group=Group("Prompts", sort_key=1))
@dataclass(frozen=True)
class PointingOptions:
    """What the user points at.

    Args:
        point: a voxel inside the object, counted from 0 in the order of the file; again for more; "2:I J K" is object 2.
        negative: a voxel outside of it.
        box: two opposite corners of a rectangle around it on one slice; or of a box around all of it, which tracking does not
            leave.
        negative_box: two opposite corners of a region that is not the object, on one slice or in 3D.
        scribble: a line drawn inside of it on one slice, place after place.
        negative_scribble: a line drawn outside of it.
        width: of scribbles, in voxels; 3 unless given.
        lasso: corners of an outline drawn around it on one slice: what it encloses is the object there.
        negative_lasso: corners of an outline around what is not the object.
        diameter: both ends of its longest diameter on a slice, and of the short one across where it was measured.
        slices: first and last slice, of the axis that it is prompted on, between which it is looked for ("2:K K2": object 2).
        interpolate: on slices between outlines (of masks, lassos), expect their interpolated shapes beside what is tracked.
        mask: label file with outlines, in the image's grid (FILE#2: time point 2 of it); each label is an object, unless
            --object; black and white are one object; segments of 3D Slicer keep their names.
        threshold: what is at least this number in a mask is drawn, as one object (masks with soft edges).
        each_label: each number of a mask is an object, even where they look like soft edges.
        prompts: file of prompts (JSON), with several objects and their names.
        object: label of what the prompts of the command line mean.
        mm: coordinates of the command line are millimetres in RAS+.
    """

    point: VoxelWords = ()
    negative: VoxelWords = ()
    box: VoxelBoxWords = ()
    negative_box: VoxelBoxWords = ()
    scribble: VoxelLineWords = ()
    negative_scribble: VoxelLineWords = ()
    width: float | None = None
    lasso: VoxelLineWords = ()
    negative_lasso: VoxelLineWords = ()
    diameter: VoxelLineWords = ()
    slices: SliceWords = ()
    interpolate: Annotated[bool, FLAG] = False
    mask: Annotated[tuple[Path, ...], REPEATED] = ()
    threshold: float | None = None
    each_label: Annotated[bool, FLAG] = False
    prompts: Path | None = None
    object: int | None = None
    mm: Annotated[bool, FLAG] = False


@Parameter(name="*", group=Group("Prompts", sort_key=1))
@dataclass(frozen=True)
class PromptOptions(PointingOptions):
    """What the user points at, and what that is called.

    Args:
        name: of the object of the command line's prompts; "2:NAME" names object 2.
        correct: earlier result that the prompts mend (FILE#2: time point 2 of it); what they do not touch stays.
    """

    name: Annotated[tuple[str, ...], REPEATED] = ()
    correct: Path | None = None


@Parameter(name="*", group=Group("Prompts", sort_key=1))
@dataclass(frozen=True)
class SetPromptOptions:
    """What the user points at, and on which images.

    Args:
        template: an image of the folder that is prompted (stack.tif#3: a page); again for more.
        mask: label map of the template (PNG, TIFF, NIfTI; masks.tif#2: a page); each label is an object, unless --object; black
            and white, and what is opaque, are one object; one for each --template, in their order, or IMAGE:FILE.
        threshold: what is at least this number in a mask is drawn, as one object (masks with soft edges).
        each_label: each number of a mask is an object, even where they look like soft edges.
        box: two opposite corners of a rectangle around the object; with several templates "IMAGE:X Y X2 Y2".
        point: a pixel inside of it, X to the right, Y down, from 0; again for more; "2:X Y" is object 2, "IMAGE:2:X Y" is on
            that image.
        negative: a pixel outside of it.
        negative_box: two opposite corners of a region that is not the object.
        scribble: a line drawn inside of it, place after place.
        negative_scribble: a line drawn outside of it.
        width: of scribbles, in pixels; 3 unless given.
        lasso: corners of an outline drawn around it: what it encloses is the object.
        negative_lasso: corners of an outline around what is not the object.
        diameter: both ends of its longest diameter, and of the short one across where it was measured.
        object: label of what the prompts of the command line mean.
        name: of that object; "2:NAME" names object 2.
    """

    template: Annotated[tuple[str, ...], REPEATED] = ()
    mask: Annotated[tuple[str, ...], REPEATED] = ()
    threshold: float | None = None
    each_label: Annotated[bool, FLAG] = False
    box: PixelBoxWords = ()
    point: PixelWords = ()
    negative: PixelWords = ()
    negative_box: PixelBoxWords = ()
    scribble: PixelLineWords = ()
    negative_scribble: PixelLineWords = ()
    width: float | None = None
    lasso: PixelLineWords = ()
    negative_lasso: PixelLineWords = ()
    diameter: PixelLineWords = ()
    object: int | None = None
    name: Annotated[tuple[str, ...], REPEATED] = ()


@dataclass(frozen=True)
class SetPrompts:
    """The prompts of a set of images."""

    prompts: Mapping[int, Mapping[int, FramePrompt]]  # image → object → prompt
    names: Mapping[int, str]  # object → name
    files: tuple[Path, ...]  # masks that were read


def volume_prompts(options: PromptOptions, volume: Volume, earlier: Volume | None = None) -> NamedPrompts:
    """All prompts in a volume: of the file, then of the command line.

    Raises:
        PromptError: no prompt, or one that does not work.
        AmbiguousError: it is not clear which object of the earlier result is meant.
    """
    from_file = NamedPrompts(()) if options.prompts is None else load_prompts(options.prompts, volume)
    pointed = any(getattr(options, option) for option in POINTED)
    if options.mm and not pointed:
        raise ConfigError("--mm changes nothing: no coordinates are given on the command line", "leave it out")
    if options.object is not None and not (pointed or options.mask or options.name):
        raise ConfigError("--object changes nothing: a file of prompts names its own objects", "leave it out")
    reader = _VolumeReader(options, Places(volume, "mm" if options.mm else "voxel"), earlier)
    prompts = (*from_file.prompts, *reader.prompts())
    if options.interpolate:
        prompts += (
            tuple(map(ShapeInterpolation, sorted({p.object for p in prompts if isinstance(p, Mask | Lasso)})))
            or _nothing_to_join()
        )
    if not prompts:
        raise PromptError("there is no prompt", GIVE_PROMPT)
    check_limits_given_once(prompts)
    if earlier is not None and all(isinstance(prompt, SliceRange) for prompt in prompts):
        raise PromptError("there is no prompt: slices only say where an object may be corrected", GIVE_PROMPT)
    drawn = {outline.label: outline.name for outline in reader.outlines if outline.name}
    names = {**drawn, **from_file.names, **_names(options.name, reader.label)}
    _check_object(options, asked=reader.asked)
    check_named(names, {prompt.object for prompt in prompts} | set(_labels(earlier)))
    colours = {outline.label: outline.colour for outline in reader.outlines if outline.colour}
    notes = [*from_file.notes, *reader.places.notes, *(note for outline in reader.outlines for note in outline.notes)]
    notes = dict.fromkeys(notes + describe_shared_names(names))
    return NamedPrompts(prompts, names, from_file.files, colours, tuple(notes))


# All prompts of a template count together: only after masks, clicks and boxes is it known which template has none.
def set_prompts(options: SetPromptOptions, images: ImageFolder) -> SetPrompts:
    """All prompts on images of a folder.

    Raises:
        PromptError: none, one that does not fit its image, or a template that is not in the folder or without a prompt.
        ConfigError: a template is given twice.
        AmbiguousError: it is not clear which template is meant.
    """
    reader = _SetReader(options, images, [images.index(name) for name in options.template])
    if twice := [i for i in reader.templates if reader.templates.count(i) > 1]:
        problem = f"--template {images.entries[twice[0]].name} is given twice"
        raise ConfigError(problem, "give it once; all its masks, boxes and clicks count together")
    for positive, option in ((True, "point"), (False, "negative")):
        for text in getattr(options, option):
            place, label, (x, y) = reader.parse(option, text)
            reader.add(place, label, FramePrompt.click(x, y, positive=positive))
    for text in options.box:
        place, label, (x, y, x2, y2) = reader.parse("box", text)
        reader.add(place, label, FramePrompt.box(min(x, x2), min(y, y2), max(x, x2), max(y, y2)))
    reader.add_strokes()
    files = reader.add_masks()
    unprompted = [i for i in reader.templates if i not in reader.found]
    if not reader.found or unprompted:
        name = images.entries[unprompted[0]].name if unprompted else None
        raise PromptError("there is no prompt", "give --template IMAGE with --mask, --box or --point", subject=name)
    reader.check()
    names = _names(options.name, lambda *_: reader.label())
    _check_object(options, asked=reader.asked)
    check_named(names, {label for own in reader.found.values() for label in own})
    return SetPrompts(reader.found, names, files)


@dataclass
class _VolumeReader:
    options: PromptOptions
    places: Places
    earlier: Volume | None
    asked: bool = False  # whether something named no object

    def prompts(self) -> list[Prompt]:
        if self.options.object is not None:
            check_object(self.options.object)
        found: list[Prompt] = []
        point, box = self.places.point, self.places.box
        for option, make in {"point": point, "negative": point, "box": box, "negative_box": box}.items():
            for text in getattr(self.options, option):
                label, numbers = _object_and_numbers(option, text)
                found.append(make(numbers, label or self.label(option, text), positive="negative" not in option))
        return [*found, *self._strokes(), *masks_from(self.outlines)]

    def _strokes(self) -> Iterator[Prompt]:
        """What is drawn by hand, and the slices that are looked at."""
        width = _scribble_width(self.options)
        for option, kind, positive in STROKES:
            for text in getattr(self.options, option):
                label, numbers = _object_and_numbers(option, text)
                places, label = self.places.along(kind.kind, numbers), label or self.label(option, text)
                yield kind(places, label, positive, width) if kind is Scribble else kind(places, label, positive)
        for text in self.options.slices:
            label, numbers = _object_and_numbers("slices", text)
            if not all(number.is_integer() for number in numbers):
                raise PromptError(f"{text} are no slices", "give whole numbers", subject="--slices")
            yield SliceRange(int(numbers[0]), int(numbers[1]), label or self.label("slices", text))

    @cached_property
    def outlines(self) -> list[Outline]:
        """What was drawn in the masks."""
        rule, found = _mask_rule(self.options), list[Outline]()
        for word in self.options.mask:
            file, frame = split_page(str(word))
            with naming_pages(file):
                own = io.load_outlines(file, self.places.volume, rule, frame=frame)
            found += own if rule.each_label else self._corrected(own, str(word))
        return found

    # A mask that is drawn in one number says where an object lies, as a click does, and not which of several it corrects.
    def _corrected(self, own: list[Outline], word: str) -> list[Outline]:
        """What is drawn in a mask, as the object that is meant where it names none and an earlier result is corrected."""
        if self.earlier is None or self.options.object is not None or [(each.label, each.name) for each in own] != [(1, "")]:
            return own
        return [replace(own[0], label=self.label("mask", word))]

    def label(self, option: str, text: str) -> int:
        """The object of a prompt that names none: that of --object, the one that is corrected, or 1."""
        labels, self.asked = _labels(self.earlier), True
        if self.options.object is not None or not labels:
            return self.options.object or 1
        if len(labels) > 1:
            problem = f"holds {len(labels)} objects, and --{option.replace('_', '-')} {text} names none of them"
            choices = [f"--object {label}" for label in labels]
            raise AmbiguousError(problem, "say which is meant", subject=self.options.correct, choices=choices)
        return labels[0]


@dataclass
class _SetReader:
    options: SetPromptOptions
    images: ImageFolder
    templates: list[int]
    found: dict[int, dict[int, FramePrompt]] = field(default_factory=dict)
    asked: bool = False  # whether something named no object

    def add(self, place: int, label: int, prompt: FramePrompt) -> None:
        own = self.found.setdefault(place, {})
        name = self.images.entries[place].name
        own[label] = own[label].joined(prompt, label, name) if label in own else prompt

    def parse(self, option: str, text: str) -> tuple[int, int, list[float]]:
        """Image, object and numbers of "IMAGE:LABEL:X Y"."""
        option = option.replace("_", "-")
        head, numbers = parse_numbers(f"--{option}", text, PIXELS[f"--{option}"])
        image, _, label = head.rpartition(":")
        if head and not label.isdecimal():
            image, label = head, ""
        place = self.images.index(image) if image else self._only_template(option)
        return place, check_object(int(label)) if label else self.label(), numbers

    def add_strokes(self) -> None:
        """Add what is drawn by hand."""
        width = _scribble_width(self.options)
        for option, kind, positive in STROKES:
            for text in getattr(self.options, option):
                place, label, numbers = self.parse(option, text)
                height, across = self.images[place].shape[:2]
                places = [numbers[n : n + 2] for n in range(0, len(numbers), 2)]
                if kind is Scribble:
                    prompt = scribble_prompt(places, width, (height, across), positive=positive)
                elif kind is Lasso:
                    prompt = lasso_prompt(places, (height, across), positive=positive)
                else:
                    prompt = diameter_prompt(places, (height, across))
                self.add(place, label, prompt)
        for text in self.options.negative_box:
            place, label, (x, y, x2, y2) = self.parse("negative_box", text)
            corners = [(x, y), (x2, y), (x2, y2), (x, y2)]
            self.add(place, label, lasso_prompt(corners, self.images[place].shape[:2], positive=False, what="box"))

    def add_masks(self) -> tuple[Path, ...]:
        """Add the outlines of all masks; their files."""
        rule = _mask_rule(self.options)
        files: list[Path] = []
        for order, word in enumerate(self.options.mask):
            place, (file, page) = self._locate_mask(order, word)
            for outline in self._outlines(file, page, place, rule):
                self.add(place, outline.label, FramePrompt.mask(outline.inside))
            files.append(file)
        return tuple(files)

    def check(self) -> None:
        """Hold all prompts against their images: what could not be outlined is refused before anything is loaded."""
        shown = {label for own in self.found.values() for label, prompt in own.items() if prompt.shows_object}
        if vague := sorted({label for own in self.found.values() for label in own} - shown):
            problem = f"object {vague[0]} has nothing but negative clicks"
            raise PromptError(problem, "click inside of it too, or outline it")
        for place, own in sorted(self.found.items()):
            image = self.images[place]
            try:
                for prompt in own.values():
                    check_frame_prompt(prompt, (image.shape[0], image.shape[1]))
                if image.min() == image.max():
                    raise PromptError("all its pixels have the same value", "there is nothing to outline; prompt another one")
            except PromptError as error:
                raise error.about(self.images.entries[place].name) from None

    def label(self) -> int:
        """The object of prompts that name none."""
        self.asked = True
        return 1 if self.options.object is None else check_object(self.options.object)

    def _only_template(self, option: str) -> int:
        if len(self.templates) == 1:
            return self.templates[0]
        if not self.templates:
            raise PromptError(f"--{option} needs an image", f"add --template IMAGE, one of {self.images.folder}")
        choices = [f"--{option} {self.images.entries[i].name}:{PIXELS.get(f'--{option}', 'FILE')}" for i in self.templates]
        raise AmbiguousError(f"there are several templates, and --{option} names none", "say which", choices=choices)

    def _locate_mask(self, order: int, word: str) -> tuple[int, tuple[Path, int | None]]:
        colons = [place for place, letter in enumerate(word) if letter == ":"]
        if colons and not split_page(word)[0].exists():
            return self._named_before(word, colons)
        if len(self.options.mask) == len(self.templates):
            return self.templates[order], split_page(word)
        return self._only_template("mask"), split_page(word)

    def _named_before(self, word: str, colons: list[int]) -> tuple[int, tuple[Path, int | None]]:
        """The image and the file of "IMAGE:FILE", whose names may hold colons, too: where both are there, if anywhere."""
        there = {at for at in colons if split_page(word[at + 1 :])[0].exists()}
        for at in sorted(colons, key=lambda at: at not in there):
            with suppress(PromptError):
                return self.images.index(word[:at]), split_page(word[at + 1 :])
        return self.images.index(word[: colons[0]]), split_page(word[colons[0] + 1 :])

    def _outlines(self, file: Path, page: int | None, place: int, rule: MaskRule) -> list[Outline]:
        with naming_pages(file):
            image = self.images.picture(place)
            numbers, shape = read_label_map(file, page, like=image), image.shape
            if numbers.shape != shape:
                sizes = [f"{width} × {height} pixels" for height, width in (numbers.shape, shape)]
                name = self.images.entries[place].name
                turned = (
                    f"viewers turn that image (EXIF orientation {image.turned}), and its pixels are taken as they are stored: "
                )
                remedy = "save it as it is seen, without that orientation, or outline its pixels as stored"
                remedy = turned + remedy if image.turned != 1 else "give a mask of that size"
                raise PromptError(f"it has {sizes[0]}, the image {name} {sizes[1]}", remedy, subject=file)
            return outlines(numbers, rule, lossy=is_lossy(file))


def split_page(word: str) -> tuple[Path, int | None]:
    """A file and its page or time point: "masks.tif#2"."""
    name, mark, page = word.rpartition("#")
    if mark and page.isdecimal() and not Path(word).exists():
        return Path(name), int(page)
    return Path(word), None


def _nothing_to_join() -> tuple[Prompt, ...]:
    raise ConfigError("--interpolate changes nothing: nothing is outlined", "give --mask or --lasso, or leave it out")


def _scribble_width(options: PointingOptions | SetPromptOptions) -> float:
    """Of the scribbles; raises ConfigError for a width without a scribble."""
    if options.width is not None and not (options.scribble or options.negative_scribble):
        raise ConfigError("--width changes nothing: there is no scribble", "give --scribble, or leave it out")
    return Scribble.width if options.width is None else options.width


# Options that would be ignored are refused: whoever typed them believes that they did something.
def _mask_rule(options: PromptOptions | SetPromptOptions) -> MaskRule:
    """How the masks of a command line are meant.

    Raises:
        ConfigError: an option for masks without a mask, or options that exclude each other.
    """
    label, threshold, each_label = options.object, options.threshold, options.each_label
    option = "--threshold" if threshold is not None else "--each-label" if each_label else None
    if option and not options.mask:
        raise ConfigError(f"{option} speaks of masks, and none was given", "give --mask, or leave it out")
    check_threshold(threshold, each_label=each_label)
    if each_label and label is not None:
        raise ConfigError("--each-label and --object contradict each other", "give one of them")
    return MaskRule(label, threshold, each_label)


@contextmanager
def naming_pages(file: Path, option: str = "--mask") -> Iterator[None]:
    """Where a mask has several pages, name them as the options of masks do; name the file in errors that do not."""
    try:
        yield
    except AmbiguousError as error:
        pages = any("--frame" in choice for choice in error.choices)
        choices = (f"{option} {file}#0", f"{option} {file}#1 …") if pages else error.choices
        raise AmbiguousError(error.problem, error.remedy, subject=file, choices=choices) from None
    except MedicalSam2Error as error:
        raise error.about(file) from None


def _names(words: Sequence[str], default: Callable[[str, str], int]) -> dict[int, str]:
    """Object → name, from "2:NAME" or "NAME"."""
    names: dict[int, str] = {}
    for word in words:
        head, colon, rest = word.partition(":")
        label, name = (check_object(int(head)), rest) if colon and head.isdecimal() else (None, word)
        if not name.strip() or not name.isprintable():
            raise InputError(f"{word!r} is no name", "write a line of text", subject="--name")
        label = label or default("name", word)
        if label in names:
            raise InputError(f"object {label} has two names", "give one", subject="--name")
        names[label] = name.strip()
    return names


def _check_object(options: PromptOptions | SetPromptOptions, *, asked: bool) -> None:
    """Refuse an object that is named for nothing: each click has its own before its colon, and there is no mask."""
    if options.object is not None and not asked and not options.mask:
        problem = f"--object {options.object} changes nothing: every prompt names its object itself, as 2:X Y does"
        raise ConfigError(problem, "leave --object out, or the number before the colon")


def _labels(earlier: Volume | None) -> list[int]:
    return sorted(labels_in(None if earlier is None else earlier.array))


def _object_and_numbers(option: str, text: str) -> tuple[int | None, list[float]]:
    """The object, where it is named before a colon, and the numbers."""
    option = option.replace("_", "-")
    label, numbers = parse_numbers(f"--{option}", text, VOXELS[f"--{option}"])
    if label and not label.isdecimal():
        raise PromptError(f"{label!r} is no label of an object", "write 2:I J K for object 2", subject=f"--{option}")
    return check_object(int(label)) if label else None, numbers
