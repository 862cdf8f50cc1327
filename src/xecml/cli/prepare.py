"""The command `xec prepare`: rec files of the analyser to event files."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from xecml.cli.printing import Apply, ByRun, Debug, Force, Json, show_table
from xecml.errors import InputError, printable


class Photons(StrEnum):
    """Which photons of an event become entries."""

    highest = "highest"
    all = "all"


_ANY = "any"
_LONGEST_SHOWN = 80


def prepare(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="REC...", help="Rec files, globs or folders; or --dir and --runs.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="ROOT file to write; with --runs also a folder, by default the current one."),
    ] = None,
    branch_map: Annotated[
        Path | None,
        typer.Option(
            "--map", help="YAML file with branch names, units and cuts ('xec recipes copy prepare' writes the default)."
        ),
    ] = None,
    folder: Annotated[Path | None, typer.Option("--dir", help="Folder of rec files, or of folders 430xxx.")] = None,
    runs: Annotated[
        str | None,
        typer.Option(
            "--runs", metavar="START:N", help="Read N runs from START on and write DataGammaAngle_<first>-<last>.root."
        ),
    ] = None,
    suffix: Annotated[
        str | None, typer.Option("--suffix", help="End of the file names after the run number, such as _open.root.")
    ] = None,
    photons: Annotated[
        Photons | None,
        typer.Option(
            "--photons", help="Which photon to take of an event with several: the one of highest energy, or all."
        ),
    ] = None,
    cuts: Annotated[
        bool,
        typer.Option(
            "--cuts/--no-cuts", help="Apply the cuts of the map; with --no-cuts only those given on the command line."
        ),
    ] = True,
    trigger: Annotated[
        str | None, typer.Option("--trigger", help="Trigger numbers to keep, such as 0 or 50,51, or any.")
    ] = None,
    one_photon: Annotated[bool | None, typer.Option(help="Keep events with exactly one photon.")] = None,
    energy: Annotated[
        str | None, typer.Option("--energy", help="Energies to keep in MeV, such as 35:65, or any.")
    ] = None,
    fiducial: Annotated[bool | None, typer.Option(help="Keep |u| < 23.9, |v| < 67.9, w >= 0 cm.")] = None,
    pileup: Annotated[str | None, typer.Option("--pileup", help="Pile-up flags to keep, such as 0, or any.")] = None,
    vertex: Annotated[bool | None, typer.Option(help="Keep events with a vertex.")] = None,
    measured: Annotated[bool | None, typer.Option(help="Keep events with a valid count and a valid time.")] = None,
    repeated: Annotated[
        bool | None, typer.Option("--no-repeats/--repeats", help="Leave out events that occurred before in the files.")
    ] = None,
    dead_list: Annotated[
        Path | None, typer.Option("--dead-list", help="File with ids of bad sensors, one per line.")
    ] = None,
    find_dead: Annotated[
        bool | None,
        typer.Option(
            "--find-dead/--no-find-dead", help="Find bad sensors in the data themselves; this reads all events twice."
        ),
    ] = None,
    conditions: ByRun = None,
    apply: Apply = "",
    tree: Annotated[str | None, typer.Option("--tree", help="Name of the tree; by default rec.")] = None,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make event files from the analyser's rec files: selected photons, their sensors, and the angle to the vertex."""
    from xecml.conditions_file import correction
    from xecml.realdata.branch_map import NO_CUTS, load_map
    from xecml.realdata.prepare import prepare_files
    from xecml.recipes.shipped import find

    flags: dict[str, Any] = {
        "one_photon": one_photon, "fiducial": fiducial, "vertex": vertex, "measured": measured, "repeated": repeated,
    }  # fmt: skip
    selection = ({} if cuts else dict(NO_CUTS)) | {name: value for name, value in flags.items() if value is not None}
    if photons is Photons.all and one_photon is None:
        # asking for all photons is asking for events with several
        selection["one_photon"] = False
    for name, text in (("trigger", trigger), ("pileup", pileup)):
        if text is not None:
            selection[name] = _numbers(name, text)
    if energy is not None:
        selection["energy_mev"] = _energies(energy)
    bad: dict[str, Any] = {"list": dead_list} if dead_list is not None else {}
    bad |= {"find": find_dead} if find_dead is not None else {}
    changes: dict[str, Any] = {"selection": selection, "bad_sensors": bad}
    changes |= {"photons": photons.value} if photons is not None else {}
    changes |= {"tree": tree} if tree is not None else {}
    names = load_map(branch_map, changes)
    map_path = find(branch_map, "prepare") if branch_map is not None else None
    paths, target, left_out = _inputs(files or [], out, folder, runs, suffix)
    options: dict[str, Any] = {"left_out": left_out, "skip_damaged": runs is not None}
    options["correction"] = correction(conditions, apply)
    report = prepare_files(paths, target, names, map_path=map_path, force=force, **options)
    if as_json:
        print(json.dumps(report.as_dict()))
        return
    from xecml.events import number_of

    show_table("", ["cut", "left", "of those before", "of all"], report.flow.rows())
    sensors = f"; {number_of(len(report.bad), 'sensor')} bad" if report.bad else ""
    what = "entry" if report.events == 1 else "entries"
    read = f"{number_of(report.read)} in {number_of(report.files, 'file')}"
    rate = report.read / max(report.seconds, 1e-9)
    print(f"Wrote {report.events} {what} of {read} to {report.out} ({rate:.0f} events/s{sensors}).")


def _inputs(
    files: list[str], out: Path | None, folder: Path | None, runs: str | None, suffix: str | None
) -> tuple[list[str], Path, list[str]]:
    """Files to read, the file to write, and what is missing; a missing run is a line on standard error."""
    import sys

    from xecml.files import is_folder
    from xecml.realdata.run_range import DEFAULT_SUFFIX, files_of_runs, parse_runs

    if runs is None:
        if folder is not None or suffix is not None:
            raise InputError("--dir and --suffix are for ranges of runs; give --runs START:N, or name rec files.")
        if not files:
            raise InputError("No rec file was named; give files, or a range of runs: --dir FOLDER --runs 430000:100.")
        if out is None:
            raise InputError("There is no file to write to; give --out OUT.root.")
        return files, out, []
    if files:
        raise InputError("Rec files and --runs cannot both be given; give one of them.")
    if folder is None:
        raise InputError("--runs needs to know where the rec files are; give --dir FOLDER.")
    found = files_of_runs(folder, *parse_runs(runs), suffix if suffix is not None else DEFAULT_SUFFIX)
    left_out = [f"run {run}: no file in {folder}" for run in found.missing]
    for line in left_out:
        print(f"xec: left out: {line}", file=sys.stderr, flush=True)
    name = f"DataGammaAngle_{min(found.paths)}-{max(found.paths)}.root"
    target = Path(name) if out is None else out / name if is_folder(out) else out
    return list(found.paths.values()), target, left_out


def _numbers(name: str, text: str) -> list[int] | None:
    """Whole numbers of an option, or None for `any`."""
    if text == _ANY:
        return None
    if not re.fullmatch(r"\s*-?\d{1,10}(\s*,\s*-?\d{1,10})*\s*", text):
        raise InputError(
            f"'{printable(text, _LONGEST_SHOWN)}' of --{name} is no list of numbers; give numbers such as 0 or 50,51, "
            "or the word any."
        )
    return [int(part) for part in text.split(",")]


def _energies(text: str) -> list[float] | None:
    """A range of energies in MeV, or None for `any`."""
    if text == _ANY:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*:\s*(\d+(?:\.\d*)?)\s*", text)
    if not found:
        raise InputError(
            f"'{printable(text, _LONGEST_SHOWN)}' of --energy is no range; give one in MeV, such as 35:65, or the "
            "word any."
        )
    return [float(found[1]), float(found[2])]
