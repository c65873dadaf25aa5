"""A network of the user's own: a function in a Python file, named on the command line as FILE.py:FUNCTION.

The file is imported only where the command line names it. A checkpoint records the function's name and the file's SHA-256,
and reading one never imports anything.
"""

import contextlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearning.core.errors import UserError
from unlearning.core.files import sha256
from unlearning.core.words import first_line, say


@contextlib.contextmanager
def _files_beside(folder: Path) -> Iterator[None]:
    """Lets a file import what lies beside it where others of the same names are loaded, such as this project's `models`."""
    beside = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    others = [name for name, module in sys.modules.items() if name.split(".")[0] in beside and not _is_in(module, folder)]
    hidden = {name: sys.modules.pop(name) for name in others}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.update(hidden)


def _is_in(module: object, folder: Path) -> bool:
    """True if a module's file lies in a folder."""
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(folder)


@dataclass(frozen=True)
class OwnNetwork:
    """A function that returns a network, and its file."""

    file: Path
    function: str

    @classmethod
    def parse(cls, text: str | None) -> "OwnNetwork | None":
        """What a --model names; None where that is no FILE.py:FUNCTION. Raises UserError where there is no such file."""
        file, _, function = (text or "").rpartition(":")
        if not file.endswith(".py"):
            if (text or "").endswith(".py"):
                raise UserError(f"--model {text}: name a function in it, as {text}:FUNCTION")
            return None
        if not Path(file).is_file():
            raise UserError(f"--model {text}: there is no file {file}")
        return cls(Path(file), function)

    @property
    def name(self) -> str:
        """What files and tables call the network."""
        return f"{self.file.name}:{self.function}"

    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.file)

    def create(self, **known: Any) -> nn.Module:
        """The network that the function returns, given those of `known` that its parameters name.

        Raises UserError where the file or the function fails, or returns something else.
        """
        try:
            spec: Any = importlib.util.spec_from_file_location(f"_own_{self.file.stem}", self.file.resolve())
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # dataclasses and pickles in the file look themselves up there
            with _files_beside(self.file.resolve().parent):  # the function may import them, too
                spec.loader.exec_module(module)
                function = getattr(module, self.function, None)
                if not callable(function):
                    raise UserError(f"{self.file} has no function {self.function!r}")
                net = function(**{name: known[name] for name in inspect.signature(function).parameters if name in known})
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # a stranger's code fails in ways of its own
            raise UserError(f"{self.file}:{self.function} failed: {type(error).__name__}: {first_line(error)}") from None
        if not isinstance(net, nn.Module):
            raise UserError(f"{self.file}:{self.function} returns {type(net).__name__}, not a torch.nn.Module")
        return net

    def check(self, net: nn.Module, *, in_chans: int, num_classes: int, img_size: int) -> None:
        """Make the network once more, and see that its state dict is all that tells it from `net`, which stays as it is, as
        does what is drawn after this. A line says what the function has frozen.

        Raises UserError where a network of the same state dict answers otherwise, where that holds anything but tensors, and
        where no weight can be trained.
        """
        self._say_frozen(net)
        state = net.state_dict()
        if strange := [key for key, value in state.items() if not isinstance(value, torch.Tensor)]:
            raise UserError(f"{self.name}: {strange[0]} of its state dict is no tensor, and files keep tensors alone")
        images = torch.rand(2, in_chans, img_size, img_size, generator=torch.Generator().manual_seed(0))
        training = net.training
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(torch.initial_seed() + 1)
            again = self.create(in_chans=in_chans, num_classes=num_classes, img_size=img_size)
            try:
                again.load_state_dict(state)
            except RuntimeError as error:
                raise UserError(f"{self.name}: made again, it is another network ({first_line(error)})") from None
            once, twice, other = (one.eval()(images) for one in (net, net, again))
        net.train(training)
        if torch.equal(once, twice) and not torch.allclose(once, other, rtol=1e-3, atol=1e-5, equal_nan=True):
            what = "made again, with the same state dict, it answers otherwise"
            raise UserError(
                f"{self.name}: {what}: what its function draws at random has to be in it, as a persistent buffer"
            )

    def _say_frozen(self, net: nn.Module) -> None:
        trained = [parameter.requires_grad for parameter in net.parameters()]
        if not any(trained):
            raise UserError(f"{self.name}: its function has frozen all of its weights: there is nothing to train")
        if frozen := len(trained) - sum(trained):
            what = f"its function has frozen {frozen} of {len(trained)} tensors of weights"
            say(f"note: {self.name}: {what}: training leaves them, in Retrain as well; pruning and LoRA's layers don't ask")
