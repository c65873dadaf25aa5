"""What the user asks of reproduce.py, and what a table is made of."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import data
import models
from unlearning.core import names
from unlearning.core.device import Compute, resolve_device
from unlearning.core.errors import UserError
from unlearning.core.flags import written
from unlearning.evaluation.flags import Scoring
from unlearning.evaluation.unfinished import Unfinished
from unlearning.experiments.choice import Tuned
from unlearning.experiments.methods import ADDED, FORGETS, FROM_ORIGINALS, OF_IMAGES, TUNED, key_of
from unlearning.images import classes, forgetting
from unlearning.networks.own import OwnNetwork
from unlearning.vision.flags import check_side
from unlearning.vision.originals import Told, network_in
from unlearning.vision.shared import Shared

DATASET = "fashion-mnist"  # of a preset that names none
HELD_OUT = 0.1  # share of the training images on which tunings are scored
OF_SYSTEMS = {"lmeraser": ("class",)}  # as FORGETS, of tables whose rows are systems
ONE_LENGTH = ("sequence", "tune")  # tables whose rows have one number of epochs: the next request, or a point, follows it
RETAIN = "retain-subset"  # flag of the scripts, key of presets
Run = tuple[str, list[str]]  # a script's module name and the arguments for its parser
Row = dict[str, Any]  # as reports/tables.py describes it


@dataclass(frozen=True)
class Request:
    """What reproduce.py's flags ask for.

    sizes: the preset's entry of the table, with what --subset, --epochs, --retain-subset and --images put in its place.
    changed: what these say, for the table's name. source: the data, thinned to the preset's size by `fitted`. models,
    methods: as given, None for the preset's and for all rows. originals: files to start from in the place of networks
    trained here, by network. told: what these don't say. share: of the images that are forgotten where images are. only:
    "class" or "images", of a table that forgets both. images: named or counted, in the place of the share. cache: MiB for
    outputs of frozen layers. class_words: the classes to forget, as given; forget_classes: their numbers, once they are
    `resolved`; class_names: the data's, where they were read to do so; images_tag: what files call `images`. kept: scores
    of a killed run. add: rows that aren't asked for stay. tuned: the tuning whose points rows are run at. further_tags: what
    else rows of originals that have forgotten something before are called by. asked_dataset and others: as given.
    """

    table: str
    preset: str
    sizes: Mapping[str, Any]
    changed: str
    source: data.Source
    models: tuple[str, ...] | None
    methods: tuple[str, ...] | None
    originals: Mapping[str, Path]
    told: Told
    class_words: tuple[str, ...]
    share: float
    only: str | None
    images: forgetting.ForgetRequest | None
    seeds: int
    device: str
    precision: str | None
    cache: int
    quiet: bool
    attack: str
    every_attack: bool
    recovery: bool
    results: Path
    overwrite: bool
    add: bool
    forget_classes: tuple[int, ...] = ()
    class_names: tuple[str, ...] = ()
    images_tag: str = ""
    kept: Unfinished = field(default_factory=Unfinished)
    tuned: Tuned | None = None
    asked_dataset: str | None = None
    asked_epochs: tuple[int, ...] = ()
    asked_retain: int | None = None
    asked_subset: int | None = None
    asked_images: int | None = None
    further_tags: tuple[str, ...] = ()

    @classmethod
    def from_flags(cls, args: argparse.Namespace, table: "Table") -> "Request":
        """What the flags ask for. Raises UserError for a preset or a size that the table lacks."""
        if args.preset not in table.presets:
            raise UserError(f"{args.table} has no preset {args.preset}; there are {', '.join(table.presets)}")
        if args.only and len(FORGETS.get(args.table, ())) < 2:
            raise UserError(f"{args.table} has no --only: it doesn't forget both a class and images")
        sizes, asked = dict(table.presets[args.preset]), {"subset": args.subset, "epochs": args.epochs}
        given = {name: value for name, value in asked.items() if value is not None}
        if wrong := given.keys() - sizes.keys():
            raise UserError(f"{args.table} has no --{min(wrong)}")
        asked = {RETAIN: args.retain_subset, "images": args.images}  # which a preset may leave to them
        given |= {name: value for name, value in asked.items() if value is not None}
        sizes |= given
        originals, images = _originals(args), _images(args)
        if images:
            given |= _named(images)
        if "forget" in sizes and args.forget_class:  # the order of requests is another table
            given["forget-class"] = args.forget_class
        if args.precision:  # else its methods would find the originals of another
            given["precision"] = args.precision
        if originals:
            given["original"] = [path.stem for path in originals.values()]
        if args.tuned:
            given["tuned"] = ""
        dataset = args.dataset or sizes.get("dataset", DATASET)
        found = cls(
            table=args.table,
            preset=args.preset,
            sizes=sizes,
            changed=names.suffix({f"--{name}": written(value) for name, value in given.items()}),
            source=data.Source(dataset, args.data_dir, None, HELD_OUT * table.validation, args.img_size, quiet=args.quiet),
            models=tuple(originals) or (args.model and tuple(args.model)),
            methods=args.methods and tuple(map(key_of, args.methods)),
            originals=originals,
            told=replace(Told.from_flags(args, None), own=_own(args)),
            class_words=tuple(args.forget_class or sizes.get("forget", ("3",))),
            share=args.share,
            only=args.only,
            images=images,
            seeds=args.seeds or sizes.get("seeds", table.seeds),
            device=args.device,
            precision=args.precision,
            cache=args.cache,
            quiet=args.quiet,
            attack=args.mia,
            every_attack=args.every_attack,
            recovery=args.recovery,
            results=args.results,
            overwrite=args.overwrite,
            add=args.add,
            tuned=_tuned(args),
            asked_dataset=args.dataset,
            asked_epochs=tuple(args.epochs or ()),
            asked_retain=args.retain_subset,
            asked_subset=args.subset,
            asked_images=args.images,
        )
        found._check_kinds(args)
        found._check_places()
        return found

    def _check_kinds(self, args: argparse.Namespace) -> None:
        """Raise UserError for --share and --forget-class where nothing of that kind is forgotten, and for several --epochs
        where rows have one number of them, and for --add of a table that hasn't got it."""
        if args.add and args.table not in ADDED:
            raise UserError(f"{args.table} has no --add; {', '.join(ADDED)} have")
        if args.add and args.overwrite:
            raise UserError("--add leaves rows as they are, --overwrite drops them: one of the two")
        if len(self.asked_epochs) > 1 and args.table in ONE_LENGTH:
            raise UserError(f"{args.table} takes one number of --epochs: its rows are of one length")
        for flag, kind, given in (("share", "images", args.share != 0.1), ("forget-class", "class", args.forget_class)):
            if given and kind not in self.kinds:
                raise UserError(f"{args.table} has no --{flag}: it says nothing to it")

    def _check_places(self) -> None:
        """Raise UserError for --img-size of images that have a side of their own, and for a folder in the place of a network
        of a table of images: its originals are found by the network's name."""
        check_side(self.source.dataset, self.source.img_size)
        for name in self.models or () if self.table in FORGETS and not self.originals else ():
            try:
                if Path(name).is_dir():
                    models.check_name(name)  # which goes before a folder that happens to be called so
            except UserError:
                way = f"--original {name} starts from that folder's weights"
                raise UserError(f"--model {name}: a table takes a network by its name; {way}") from None

    @property
    def networks(self) -> Sequence[str]:
        """The networks of the table."""
        return self.models or self.preset_networks

    @property
    def preset_networks(self) -> Sequence[str]:
        """The networks that the preset has where no others are asked for: those that it names, or trains."""
        return self.sizes.get("model") or [*self.sizes["pretrain"]]

    @property
    def name(self) -> str:
        """The table's name, which is its files' name: prunelora-quick, prunelora-small-cifar10 ..."""
        share = f"-share{self.share:g}" if self.share != 0.1 else ""
        usual = self.source.dataset == self.sizes.get("dataset", DATASET)
        dataset = "" if usual else "-" + data.short_name(self.source.dataset)
        return f"{self.table}-{self.preset}{self.changed}{share}{dataset}"

    @property
    def folder(self) -> Path:
        """The folder of the table's results."""
        return self.results / self.name

    @property
    def weights(self) -> Path:
        """The folder of the table's checkpoints, apart from those that other presets make of the same names."""
        return Path("model_weights") / self.name

    @property
    def forget_flags(self) -> dict[str, list[str]]:
        """The flags that name the two kinds of forget sets to a script."""
        images = ["--forget-random", str(self.share)]
        if self.images:
            images = [word for name, value in _named(self.images, whole=True).items() for word in (f"--{name}", *value)]
        return {"class": ["--forget-class", *map(self.word, self.forget_classes)], "images": images}

    @property
    def forget_tags(self) -> dict[str, str]:
        """The names of the two kinds of forget sets."""
        images = self.images_tag or forgetting.tag_of_share(self.share)
        return {"class": forgetting.tag_of_classes(self.forget_classes), "images": images}

    def word(self, label: int) -> str:
        """A class as a script's flag takes it."""
        return classes.word_of(label, self.class_names) if self.class_names else str(label)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the table forgets, each with methods of its own: "class", "images", or both."""
        kinds = FORGETS.get(self.table, OF_SYSTEMS.get(self.table, ()))
        if self.images and "images" not in kinds:  # in the place of the class
            return ("images",)
        return tuple(kind for kind in kinds if self.only in (None, kind))

    @property
    def scoring(self) -> Scoring:
        """How the checkpoints are scored; they say themselves what they have forgotten."""
        compute = Compute(resolve_device(self.device), self.precision, self.weights, self.quiet)
        data_dir = self.source.data_dir
        found = Scoring(compute, self.weights, data_dir, self.attack, self.every_attack, told=self.told, kept=self.kept)
        return replace(found, recovery=self.recovery, images=self.sizes.get("images"))

    def about(self, table: str) -> str:
        """What the table shows, in a sentence. table: the same with what it forgets unless images are named or counted."""
        if not self.images:
            return table
        of = f" of class {written(self.images.of)}" if self.images.of else ""
        what = f"the images of {self.images.file.name}" if self.images.file else f"{self.images.count} random images{of}"
        what = f"the images of subclass {written(self.images.subclasses)}" if self.images.subclasses else what
        return f"{table.removesuffix('.')}; here {what} instead."

    def in_words(self, shared: Any) -> str | None:
        """What a table of systems forgets, in a line; the scripts of others say it. The request is `resolved`."""
        if self.table not in OF_SYSTEMS:
            return None
        dataset = shared.load(self.source)
        forget = forgetting.ForgetRequest(classes=self.forget_classes).resolve(dataset.train, dataset.whole).positions
        return forgetting.by_class(dataset.train.labels, dataset.classes, forget, "forgets the private ones of")


def _tuned(args: argparse.Namespace) -> Tuned | None:
    """The tuning of --tuned. Raises UserError where a table has none, or none is there."""
    if args.tuned and args.table not in TUNED:
        raise UserError(f"{args.table} has no --tuned; {', '.join(TUNED)} have")
    return Tuned.read(args.tuned) if args.tuned else None


def _images(args: argparse.Namespace) -> forgetting.ForgetRequest | None:
    """The images that --forget-file, --forget-count or --forget-subclass names. Raises UserError where a table can't forget
    such."""
    given = {"file": args.forget_file, "count": args.forget_count, "subclass": args.forget_subclass}
    flag = next((f"--forget-{name}" for name, value in given.items() if value is not None), None)
    if args.of_class and flag != "--forget-count":
        own = f": {flag} names its images itself" if flag else ": give that as well"
        raise UserError(f"--of-class says of which classes --forget-count draws{own}")
    if flag is None:
        return None
    if args.table not in OF_IMAGES:
        raise UserError(f"{args.table} has no {flag}; {', '.join(OF_IMAGES)} have")
    if args.only == "class":
        raise UserError(f"--only class leaves out what {flag} names")
    if args.forget_class and "images" not in FORGETS[args.table]:
        raise UserError(f"{args.table} forgets a class, or images in its place: give --forget-class or {flag}")
    of, kinds = tuple(args.of_class or ()), tuple(args.forget_subclass or ())
    return forgetting.ForgetRequest(file=args.forget_file, count=args.forget_count, of=of, subclasses=kinds)


def _named(images: forgetting.ForgetRequest, whole: bool = False) -> dict[str, list[str]]:
    """The flags that name images, without their dashes, with their values. whole: a file by its path, not its stem."""
    if images.file:
        return {"forget-file": [str(images.file) if whole else images.file.stem]}
    if images.subclasses:
        return {"forget-subclass": [*map(str, images.subclasses)]}
    return {"forget-count": [str(images.count)]} | ({"of-class": [*map(str, images.of)]} if images.of else {})


def _own(args: argparse.Namespace) -> OwnNetwork | None:
    """The network of the user's own among those of --model. Raises UserError where there are several."""
    own = [found for name in args.model or () if (found := OwnNetwork.parse(name))]
    if len(own) > 1:
        raise UserError("--model: a table takes one network of one's own")
    return own[0] if own else None


def _originals(args: argparse.Namespace) -> dict[str, Path]:
    """The files of --original, each by the network that it holds. Raises UserError where a table can't start from them."""
    if not args.original:
        if flags := Told.from_flags(args, None).as_flags():
            raise UserError(f"{flags[0]} says what a file of --original doesn't: name one")
        return {}
    if args.table not in FROM_ORIGINALS:
        raise UserError(f"{args.table} has no --original; {', '.join(FROM_ORIGINALS)} have")
    if args.model and len(args.model) != len(args.original):
        raise UserError(f"--model names {len(args.model)} networks and --original {len(args.original)} files: one for each")
    told = args.model or [None] * len(args.original)
    found: dict[str, Path] = {}
    for path, name in zip(args.original, told, strict=True):
        name = network_in(path, name, args.entry)
        if name in found:
            raise UserError(f"{found[name]} and {path} both hold a {name}: a table takes one")
        found[name] = path
    return found


@dataclass(frozen=True)
class Plan:
    """The runs of a table, originals first. cells: of LLMEraser's table, which runs belong together."""

    runs: list[Run]
    cells: Sequence[Any] = ()


def shared_by_images(request: Request) -> Shared:
    """What the runs of a table of images hand on to each other."""
    return Shared(request.cache)


@dataclass(frozen=True)
class Table:
    """A paper's table.

    about: what it shows, in a sentence. plan: function of a request, giving its runs. presets: its sizes by name. seeds: how
    many by default. score: function of the checkpoints' paths, the request, the plan and what the runs have shared, giving
    the rows. published: function of rows and data set, putting a paper's numbers beside ours. shared: makes what all runs
    share. estimated: function of a request and its plan, giving lines about what the runs would take. pictures: False where
    none are drawn. validation: True where all is scored on training images that are held out. diverging: True where runs
    that diverge are left out. none_of: flags of reproduce.py, by their attributes, that say nothing to it. fewest: seeds
    that it compares at least.
    """

    about: str
    plan: Callable[[Request], Plan]
    presets: Mapping[str, Mapping[str, Any]]
    seeds: int
    score: Callable[[list[Path], Request, Plan, Any], list[Row]]
    published: Callable[[list[Row], data.Dataset], None] | None = None
    shared: Callable[[Request], Any] = shared_by_images
    estimated: Callable[[Request, Plan], list[str]] = lambda request, plan: []
    pictures: bool = True
    validation: bool = False
    diverging: bool = False
    none_of: tuple[str, ...] = ()
    fewest: int = 1
