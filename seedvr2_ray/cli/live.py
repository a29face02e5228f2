"""``seedvr2-ray live``: a stream in, the restored stream out, for as long as it lasts."""

import json
import sys
import time
from typing import Annotated, Literal

import typer
from rich.console import Console

from seedvr2_ray.cli.options import with_settings
from seedvr2_ray.cli.parameters import Attention, Compile, Mirror, WeightsDir, weights_source
from seedvr2_ray.live.events import LiveEvent, Tell
from seedvr2_ray.settings import RestoreSettings

Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="A file, - for a pipe, rtmp:// srt:// udp:// rtsp:// tcp://, or a device such as v4l2:/dev/video0.",
    ),
]
Output = Annotated[
    str,
    typer.Argument(
        metavar="OUTPUT",
        help="NAME.ts, NAME.mp4 (fragmented), FOLDER/ (low-latency HLS), udp:// srt:// tcp://, or - for a pipe.",
    ),
]

_TOLD_SECONDS = 2.0
"""Between two lines about how a stream goes."""


@with_settings
def live(
    source: Input,
    target: Output,
    settings: RestoreSettings,
    policy: Annotated[
        Literal["auto", "drop", "slow"],
        typer.Option(help="When frames come too fast: drop some and say so, or slow the sender; auto by the input."),
    ] = "auto",
    output_format: Annotated[
        Literal["auto", "mpegts", "mp4", "hls"], typer.Option("--format", help="Form of the output.")
    ] = "auto",
    listen: Annotated[
        bool, typer.Option(help="Wait at INPUT (rtmp:// rtsp:// tcp:// http://) for a sender that connects to it.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a sender's first packet.")] = 30.0,
    reconnect: Annotated[float, typer.Option(min=0, help="Seconds to wait for a sender that broke off.")] = 10.0,
    warm_up: Annotated[bool, typer.Option(help="Measure first how fast this machine restores the stream.")] = True,
    least_factor: Annotated[
        float, typer.Option(min=0, help="Refuse a sender that waits for nobody below this share of real time.")
    ] = 0.1,
    weights_dir: WeightsDir = None,
    mirror: Mirror = None,
    attention: Attention = "sdpa",
    compile_transformer: Compile = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print events as JSON lines; on stderr where OUTPUT is -.")
    ] = False,
) -> None:
    """Restore a live stream.

    Sound goes along in step with the pictures. The stream ends when its sender ends it or stays away for longer than
    --reconnect, when nobody takes the output any more, or by Ctrl-C; whatever came in by then goes out. A stream that
    is restored slower than it comes loses frames (drop) or is slowed down (slow); what to expect is measured first.
    """
    # torch and everything above it take seconds to import, which other commands would pay for with each start.
    from seedvr2_ray.errors import SettingsError
    from seedvr2_ray.live.endless import make_endless
    from seedvr2_ray.live.inputs import AddressOpener, parse_input
    from seedvr2_ray.live.output import open_bytes_out, parse_output
    from seedvr2_ray.live.session import LiveRules, LiveSession
    from seedvr2_ray.live.sound import COPIED
    from seedvr2_ray.live.source import LiveSource
    from seedvr2_ray.restoration.load import LoadOptions, find_model, load_restorer

    received_from, goes_to = parse_input(source, listens=listen), parse_output(target, output_format)
    if policy == "slow" and received_from.is_endless:
        raise SettingsError(
            f"{source} does not wait for anybody, so it cannot be slowed down; leave out --policy slow, or read a "
            "file or a pipe"
        )
    chosen: Literal["drop", "slow"] = ("drop" if received_from.is_endless else "slow") if policy == "auto" else policy
    tell = _teller(as_json=as_json, to_stderr=target == "-")
    options = LoadOptions(weights=weights_source(weights_dir, mirror), attention=attention, compile=compile_transformer)
    endless = make_endless(load_restorer(settings, options), find_model(settings), settings)
    opener = AddressOpener(received_from, wait_seconds=wait, reconnect_seconds=reconnect, tell=tell)
    session = LiveSession(
        LiveSource(
            opener,
            copies_sound=COPIED[goes_to.kind].__contains__,
            merges_fields=settings.deinterlace == "bwdif",
            tell=tell,
        ),
        endless,
        lambda: open_bytes_out(goes_to),
        goes_to.kind,
        LiveRules(policy=chosen, measures=warm_up, least_factor=least_factor if received_from.is_endless else 0.0),
        tell,
    )
    with session.ended_by_signals():
        session.run()
    opener.stop()


def _teller(*, as_json: bool, to_stderr: bool) -> Tell:
    if as_json:

        def tell_program(event: LiveEvent) -> None:
            typer.echo(json.dumps(event), err=to_stderr)
            sys.stdout.flush()

        return tell_program
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    told_at = 0.0

    def tell_person(event: LiveEvent) -> None:
        nonlocal told_at
        if event["event"] == "chunk":
            # Several times a second, and each says what the one before said.
            if time.monotonic() - told_at < _TOLD_SECONDS:
                return
            told_at = time.monotonic()
        console.print(describe(event), markup=False)

    return tell_person


def describe(event: LiveEvent) -> str:
    """Say an event in words."""
    match event["event"]:
        case "plan":
            return (
                f"{event['source_size']} to {event['size']} with {event['model']}: "
                f"{event['real_time_factor']:g} times real time expected at {event['frame_rate']:g} frames/s"
            )
        case "chunk":
            return (
                f"chunk {event['chunk']}: {event['frames']} frames, {event['latency_ms']} ms behind, "
                f"{event['dropped']} dropped so far"
            )
        case "dropped":
            return f"{event['frames']} frames dropped: they come faster than they can be restored"
        case "interrupted":
            return f"the sender broke off; waiting {event['seconds']:g} s for it"
        case "resumed":
            return "the sender is back; the stream goes on"
        case "end":
            return (
                f"ended: {event['frames_in']} frames in, {event['frames_out']} out, {event['dropped']} dropped "
                f"in {event['seconds']:.1f} s"
            )
        case _:
            return str(event.get("text", event))
