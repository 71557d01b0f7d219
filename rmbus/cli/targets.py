"""`FILE[:name]`: from the words on the command line to a pipeline with its film at either end."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Final

import attrs

from rmbus import formats
from rmbus.cli.failures import Misuse
from rmbus.cli.importing import import_file, place_of
from rmbus.errors import PipelineError
from rmbus.node import Input, Node, Output, Port
from rmbus.nodes import MediaReader, MediaWriter
from rmbus.nodes.demuxing import MediaInfo
from rmbus.pipeline import Pipeline, join, merge
from rmbus.plan import LOCAL

DEFAULT_NAME: Final = "pipeline"
_SOUND_ONLY: Final = frozenset({".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac"})
_SILENT: Final = frozenset({".gif", ".apng", ".png", ".jpg", ".jpeg", ".webp", ".y4m", ".h264", ".ivf"})


@attrs.frozen
class Target:
    """What `FILE[:name]` says."""

    file: Path
    name: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Take the words apart.

        Raises:
            Misuse: there is no such Python file.
        """
        path, colon, name = text.rpartition(":")
        if not colon:
            path, name = text, DEFAULT_NAME
        file = Path(path)
        if file.suffix != ".py":
            raise Misuse(f"{path!r} is no Python file: write FILE.py or FILE.py:name")
        if not file.is_file():
            raise Misuse(f"there is no file {path!r}")
        return cls(file.resolve(), name or DEFAULT_NAME)

    def load(self) -> object:
        """Import the file, its folder first on the path, and return what has the name.

        Raises:
            Misuse: nothing has it. PipelineError: the file cannot be imported.
        """
        module = import_file(self.file, self.file.parent, self.file.stem)
        found: object = module
        for part in self.name.split("."):
            found = getattr(found, part, None)
        if found is None:
            named = [each for each, value in vars(module).items() if _is_meant(value, module.__name__)]
            raise Misuse(
                f"{self.file.name} has nothing called {self.name!r}; "
                + (f"it has {', '.join(f'{self.file.name}:{each}' for each in named)}" if named else "nor any node")
            )
        return found

    def load_node(self) -> Node:
        """Return the node that the name means.

        Raises:
            Misuse: it is none.
        """
        found = self.load()
        node = self._build(found) if inspect.isclass(found) else found
        if not isinstance(node, Node):
            raise Misuse(f"{self.name} in {self.file.name} is no Node class, as --in and --out need it")
        return node

    def load_pipeline(self) -> Pipeline:
        """Return the pipeline that the name means: one, a function that returns one, a node, or its class.

        Raises:
            Misuse: it is none of these.
        """
        found = self.load()
        if callable(found) and not isinstance(found, Node):
            found = self._build(found)
        if isinstance(found, Node):
            return Pipeline([found], name=self.file.stem)
        if isinstance(found, Pipeline):
            return found
        raise Misuse(
            f"{self.name} in {self.file.name} is {_shown(found)}, not a Pipeline, "
            "a function that returns one, or a Node class"
        )

    def _build(self, made: object) -> object:
        assert callable(made)
        try:
            inspect.signature(made).bind()
        except TypeError as error:
            raise Misuse(
                f"{self.name} in {self.file.name} needs arguments ({error}): "
                f"write `pipeline = {self.name}(...)` there, and run {self.file.name}"
            ) from error
        try:
            return made()
        except Exception as error:  # the user's own code: whatever it raises is told with its place
            raise PipelineError(f"{self.name}() in {self.file.name} failed: {place_of(error)}") from error


def _is_meant(value: object, module: str) -> bool:
    if inspect.isclass(value):
        return issubclass(value, Node) and value.__module__ == module
    return isinstance(value, Node | Pipeline)


def _shown(value: object) -> str:
    return f"a {type(value).__name__}"


# --- the film at either end -----------------------------------------------------------------------------------------


@attrs.frozen
class Filled:
    """A pipeline with its films joined.

    Attributes:
        pipeline: the whole.
        reader: what reads the input film; it and the writer run on this machine, wherever the others do.
        film: what the input film says of itself, where there is one.
    """

    pipeline: Pipeline
    reader: MediaReader | None = None
    film: MediaInfo | None = None


def check_place(on: str) -> str:
    """Return the address of a host as it was given.

    Raises:
        Misuse: it is none.
    """
    if not on.startswith(("tcp://", "ipc://", "ssh://")):
        raise Misuse(f"--on {on}: a host's address is tcp://HOST:PORT, as `rmbus host` prints it, or ssh://[USER@]HOST")
    return on


def fill(pipeline: Pipeline, source: str | None, sink: str | None) -> Filled:
    """Join a reader to the one open input and a writer to the one open output.

    Where pictures go through the pipeline, the film's sound goes straight to the writer, and the other way round.

    Raises:
        Misuse: there is not exactly one, or the film has nothing of the kind. OSError, FormatError: it cannot be read.
    """
    if source is None and sink is None:
        return Filled(pipeline)
    if source is not None and sink is not None and Path(source).absolute() == Path(sink).absolute():
        raise Misuse(f"{source} would be read and written at once: give -o another name")
    film: MediaInfo | None = None
    kind: str | None = None
    reader: MediaReader | None = None
    writer = None if sink is None else MediaWriter(sink).options(name="writer", on=LOCAL)
    into = None if source is None else _one_input(pipeline)
    out = None if sink is None else _one_output(pipeline)
    if source is not None and into is not None:
        film = MediaReader.probe(source)
        kind = _kind(into) or ("video" if film.video_codec else "audio")
        _check_film(film, kind, source, into)
        reader = MediaReader(source).options(name="reader", on=LOCAL)
        pipeline = merge(join(reader[kind], into), pipeline)
    if writer is not None and out is not None:
        written = _kind(out) or kind or "video"
        pipeline = merge(pipeline, join(out, writer[written]))
        if reader is not None and film is not None and sink is not None:
            pipeline = _straight(pipeline, reader, writer, {kind, written}, film, Path(sink).suffix.lower())
    return Filled(pipeline, reader, film)


def _one_input(pipeline: Pipeline) -> Input:
    found = pipeline.open_inputs
    needed = [port for port in found if not port.optional]
    if len(needed or found) != 1:
        raise Misuse(f"-i fills one open input, and {pipeline.name} has {_listed(pipeline, needed or found)}")
    return (needed or found)[0]


def _one_output(pipeline: Pipeline) -> Output:
    found = pipeline.open_outputs
    if len(found) != 1:
        raise Misuse(f"-o takes one open output, and {pipeline.name} has {_listed(pipeline, found)}")
    return found[0]


def _listed(pipeline: Pipeline, found: tuple[Port, ...] | list[Input] | tuple[Input, ...]) -> str:
    names = pipeline.names()
    told = [f"{names[port.node]}.{port.name}" for port in found if port.node is not None]
    return f"{len(told)}: {', '.join(told)}" if told else "none"


def _kind(port: Port) -> str | None:
    """Return which port of a reader or writer suits; None where anything does."""
    return {"video": "video", "audio": "audio", "encoded": "packets"}.get(formats.kind(port.format))


def _check_film(film: MediaInfo, kind: str, source: str, into: Port) -> None:
    if kind == "audio" and film.audio_codec is None:
        raise Misuse(f"{source} has no sound, and {into.name} takes {formats.show(into.format)}")
    if kind != "audio" and film.video_codec is None:
        raise Misuse(f"{source} has no pictures, and {into.name} takes {formats.show(into.format)}")


def _straight(
    pipeline: Pipeline, reader: MediaReader, writer: MediaWriter, taken: set[str | None], film: MediaInfo, suffix: str
) -> Pipeline:
    """Join what does not go through the pipeline straight to the writer, where the film has it and the file can."""
    if "audio" not in taken and film.audio_codec and suffix not in _SILENT:
        return merge(pipeline, join(reader.audio, writer.audio))
    if taken == {"audio"} and film.video_codec and suffix not in _SOUND_ONLY:
        return merge(pipeline, join(reader.packets, writer.packets))
    return pipeline
