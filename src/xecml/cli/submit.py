"""The commands `xec submit ...`: an ordinary command as a job of a batch system, and its status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xecml.cli.printing import Debug, Json, show, show_table

if TYPE_CHECKING:
    from xecml.cluster.job_records import Record
    from xecml.cluster.notebooks import Session
    from xecml.cluster.sites import Site

submit_app = typer.Typer(
    help="Run an ordinary command as a SLURM job: xec submit train regress --config regress --site merlin7 ...",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True}
Run = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, or output file that was submitted.")]


def _submit(
    context: typer.Context,
    site: Annotated[
        str | None, typer.Option("--site", help="Site profile: generic, merlin7, or one of your own.")
    ] = None,
    partition: Annotated[
        str | None, typer.Option("--partition", help="Partition; by default that of the site.")
    ] = None,
    time: Annotated[str | None, typer.Option("--time", help="Time limit, such as 12:00:00 or 1-00:00:00.")] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, help="GPUs per node; a training runs one task per GPU.")
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Number of nodes.")] = 1,
    mem: Annotated[str | None, typer.Option("--mem", help="Memory per node, such as 64G.")] = None,
    account: Annotated[str | None, typer.Option("--account", help="Account; by default that of the site.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the job; for a training also the name of its run.")
    ] = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="JOB", help="Begin when this job has finished successfully.")
    ] = None,
    array: Annotated[
        str | None,
        typer.Option(
            "--array", help="Number of tasks, or their numbers such as 0-9%4; {task} stands for the number of a task."
        ),
    ] = None,
    least_mb: Annotated[
        int, typer.Option("--least-mb", min=0, help="predict, inpaint: give each task at least so many MB of files.")
    ] = 200,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script and the sbatch line, and submit nothing.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    from xecml.cli.submitted_commands import ordinary, say
    from xecml.cli.submitted_files import without
    from xecml.cluster import notebooks, submission
    from xecml.cluster.demands import Wanted, demands
    from xecml.cluster.sites import site_of
    from xecml.cluster.status import status as look

    command = ordinary(str(context.info_name), context.args, name=name, array=array, least_mb=least_mb)
    chosen = site_of(site)
    earlier = look([command.folder]) if (command.manifest or command.session) and not dry_run else []
    if command.session is not None and any(one.open for one in earlier):
        record = next(one.record for one in earlier if one.open)
        say([f"Job {record.id} is there already, and its session is shown."])
        _show_session(notebooks.wait_for(command.session, command.folder, record, say), record, chosen[1], as_json)
        return
    if not command.done:
        command = without(command, earlier)
    wanted = Wanted(partition, time, gpus, nodes, mem, account, after, command.array)
    given = submission.Submission(
        name=command.name,
        command=command.words,
        folder=command.folder,
        demands=demands(chosen[1], wanted, several=command.several),
        site=chosen,
        tasks=command.tasks,
        files=command.files,
        run=command.run,
        last=command.last,
        manifest=command.manifest,
    )
    say(command.notices)
    if command.done:
        show(as_json, {"submitted": None, "folder": str(command.folder), "why": command.done}, command.done)
        return
    if dry_run:
        print(submission.dry_run(given))
        return
    if command.session is not None:
        command.session.unlink(missing_ok=True)
    record = submission.submit(given)
    if command.session is not None:
        say(
            [f"Job {record.id} is submitted; waiting for it (Ctrl-C leaves it, and the same command comes back to it)."]
        )
        _show_session(notebooks.wait_for(command.session, command.folder, record, say), record, chosen[1], as_json)
        return
    where = f" of {record.cluster}" if record.cluster else ""
    tasks = f", {len(record.tasks)} tasks" if record.tasks else ""
    shown = command.run if command.run is not None and not command.tasks else command.folder
    show(
        as_json,
        record.model_dump(mode="json") | {"folder": str(command.folder)},
        f"Submitted job {record.id}{where} ('{record.name}'{tasks}); see: xec submit status {shown}",
    )


def _show_session(session: Session, record: Record, site: Site, as_json: bool) -> None:
    """Say where a server is and how one comes there."""
    values = {"job": record.id, "host": session.host, "port": session.port, "tunnel": session.tunnel(site.login)}
    values["address"] = session.address()
    text = (
        f"JupyterLab runs on {session.host} (job {record.id}). On your own machine:\n\n    {values['tunnel']}\n\n"
        f"and open\n\n    {values['address']}\n\nIt ends with the job, or with: xec submit cancel {record.name}"
    )
    show(as_json, values, text)


for _name in ("train", "predict", "inpaint", "tune", "jupyter"):
    submit_app.command(
        _name,
        help=f"Run 'xec {_name} ...' as a job; it takes the arguments and options of that command, and these.",
        context_settings=_PASSED_ON,
    )(_submit)


@submit_app.command("status")
def status(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Folder of a run, or output file; by default all below the current folder."),
    ] = None,
    lines: Annotated[
        int, typer.Option("--lines", min=0, max=1000, help="Number of lines of each job's log to show.")
    ] = 5,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say how submitted jobs stand: state, last epoch, rate, the end of the log."""
    from xecml.cluster import job_records
    from xecml.cluster.status import counted, tail
    from xecml.cluster.status import status as look

    folders = job_records.folders_below(Path()) if run is None else [job_records.folder_of(run)]
    found = look(folders)
    if as_json:
        print(json.dumps({"jobs": [one.as_dict() | {"tail": tail(one.log, lines)} for one in found]}))
        return
    if not found:
        print("No jobs were submitted from here.")
        return
    headers = ["job", "name", "state", "time", "nodes", "epoch", "events/s"]
    rows = [
        [f"{one.name}{f' ({one.record.cluster})' if one.record.cluster else ''}", one.record.name, one.state, one.time,
         one.nodes, "" if one.epoch is None else f"{one.epoch}", "" if one.rate is None else f"{one.rate:.0f}"]
        for one in found
    ]  # fmt: skip
    show_table("", headers, rows)
    if len(found) > 1:
        print(counted(found))
    # of many tasks the logs of those that failed
    for one in found if len(found) == 1 else [one for one in found if one.failed]:
        text = tail(one.log, lines)
        if text:
            print("\n".join([f"{one.log}:", *(f"  {line}" for line in text)]))


@submit_app.command("cancel")
def cancel(run: Run, as_json: Json = False, debug: Debug = False) -> None:
    """Cancel the waiting and running jobs of a run or output file; checkpoints that a training has saved are kept."""
    from xecml.cluster import job_records
    from xecml.cluster.status import cancel as end

    ended = end(job_records.folder_of(run))
    said = ", ".join(f"{one.id}{f' of {one.cluster}' if one.cluster else ''}" for one in ended)
    text = f"Cancelled {said}." if ended else f"No job of {run} waits or runs."
    show(as_json, {"cancelled": [{"id": one.id, "cluster": one.cluster} for one in ended]}, text)
