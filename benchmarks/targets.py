"""The servers under test: each is started in a temporary directory, on loopback, and ended by its process id."""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import wire
from benchmarks.connections import Server
from benchmarks.rows import US, Row

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
"""The gateway under test is the one beside this package, however it is installed."""

START_SECONDS = 30.0
STOP_SECONDS = 15.0


class StartFailed(Exception):
    """A server did not become ready; the text says why."""


@dataclass(frozen=True)
class Running:
    """A server that is ready.

    :ivar ready_seconds: the time from the start of its process until it served.
    """

    server: Server
    ready_seconds: float


@dataclass(frozen=True)
class Target:
    """A server that can be started.

    :ivar program: the executable that has to be installed.
    :ivar version: asks for its version.
    :ivar run: starts it, and ends it with the context.
    :ivar protocol: what it speaks, as :attr:`~benchmarks.rows.Row.protocol` has it.
    :ivar kept_only: it differs from another target only in the rows that are :attr:`~benchmarks.rows.Row.kept`.
    :ivar ours: it is the gateway, configured otherwise: it runs all rows, and only where it is named.
    :ivar complete: whether all that the program needs beside itself is there.
    """

    name: str
    program: str
    version: Callable[[], str]
    run: Callable[[], AbstractContextManager[Running]]
    protocol: str = "mqtt"
    kept_only: bool = False
    ours: bool = False
    complete: Callable[[], bool] = lambda: True

    @property
    def installed(self) -> bool:
        return _find(self.program) is not None and self.complete()

    def does(self, row: Row) -> bool:
        """Whether the row is measured on it."""
        if self.name == US or self.ours:
            return True
        return row.protocol == self.protocol and not (row.own or (self.kept_only and not row.kept))


def _find(program: str) -> str | None:
    """The executable beside Python's own scripts, as the gateway looks for it, or on the PATH."""
    beside = Path(sys.executable).with_name(program)
    return str(beside) if beside.exists() else shutil.which(program) or shutil.which(program, path="/usr/sbin")


def _command(program: str) -> str:
    found = _find(program)
    if found is None:
        raise StartFailed(f"{program} is not installed")
    return found


def _printed_version(program: str, option: str) -> str:
    printed = subprocess.run([_command(program), option], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\w.+-]*", printed.stdout + printed.stderr)
    return found[0] if found else "unknown"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _mqtt_answers(port: int) -> bool:
    """Whether an MQTT connection is accepted."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as sock:
        sock.sendall(wire.mqtt_connect("ready"))
        return sock.recv(4) == b"\x20\x02\x00\x00"
    return False


def _http_answers(port: int, path: str = "/readyz") -> bool:
    """Whether it answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def _process(command: Sequence[str], directory: Path, ready: Callable[[], bool]) -> Iterator[tuple[int, float]]:
    """Run a server; yields its process id and the seconds that it took to become ready."""
    log = directory / "output"
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            while not ready():
                said = log.read_text(errors="replace").split("\n")
                last = next((line for line in reversed(said) if line.strip()), "it said nothing")
                if process.poll() is not None:
                    raise StartFailed(f"it ended with status {process.returncode}: {last}")
                if time.perf_counter() - start > START_SECONDS:
                    raise StartFailed(f"it is not ready after {START_SECONDS:.0f} s: {last}")
                time.sleep(0.005)
            yield process.pid, time.perf_counter() - start
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="flowgate-benchmark-") as name:
        path = Path(name)
        path.chmod(0o755)  # mosquitto gives up root's rights before it reads its files
        yield path


@contextmanager
def mosquitto(disk: bool = False) -> Iterator[Running]:
    """mosquitto as it is fastest: nothing persistent, no log, no limit that would make it drop messages or wait.

    ``set_tcp_nodelay`` stays off, as it is by default: mosquitto writes each message by itself, and with the option it
    carries a third fewer of them.

    :param disk: have it write what it holds to the disk each second, so that sessions survive a restart.
    """
    with _directory() as directory:
        (port,) = _free_ports(1)
        config, store = directory / "mosquitto.conf", directory / "store"
        store.mkdir()
        store.chmod(0o777)
        kept = f"persistence true\npersistence_location {store}/\nautosave_interval 1\n"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_type none\n{kept if disk else ''}"
            "max_queued_messages 0\nmax_queued_bytes 0\nmax_inflight_messages 0\n"
        )
        command = [_command("mosquitto"), "-c", str(config)]
        with _process(command, directory, lambda: _mqtt_answers(port)) as (pid, seconds):
            yield Running(Server(mqtt=port, pid=pid), seconds)


@contextmanager
def nats_server() -> Iterator[Running]:
    """nats-server's own MQTT, with JetStream on disk: the binary that the gateway uses as its bus.

    With ``max_ack_pending`` as it is by default, 1024, it would be slower where 5,000 messages are queued.
    """
    with _directory() as directory:
        port, client_port = _free_ports(2)
        config = directory / "nats.conf"
        config.write_text(
            f'server_name: benchmark\nlisten: "127.0.0.1:{client_port}"\n'
            f'jetstream {{ store_dir: "{directory / "store"}" }}\n'
            f'mqtt {{ host: "127.0.0.1", port: {port}, max_ack_pending: 10000 }}\n'
        )
        command = [_command("nats-server"), "-c", str(config)]
        with _process(command, directory, lambda: _mqtt_answers(port)) as (pid, seconds):
            yield Running(Server(mqtt=port, pid=pid), seconds)


_LIMITED = """default_plan = "all"

[plans.all]
units = 1_000_000_000_000_000
prepaid = true
publish_rate = 1_000_000_000
publish_burst = 1_000_000_000
key_publish_rate = 1_000_000_000
bytes_rate = 1_000_000_000_000
bytes_burst = 1_000_000_000_000
token_rate = 1_000_000_000
connections = 1_000_000_000
subscriptions = 1_000_000_000

"""
"""Every bound that a plan knows, and none that anything reaches."""


@contextmanager
def _scraped(port: int) -> Iterator[None]:
    """Have the metrics read once a second, as Prometheus would, at the most."""
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(1.0):
            _http_answers(port, "/metrics")

    scraper = threading.Thread(target=scrape)
    scraper.start()
    try:
        yield
    finally:
        ended.set()
        scraper.join()


@contextmanager
def flowgate(limited: bool = False) -> Iterator[Running]:
    """The gateway with its own nats-server; topics below ``live/`` have no history, all others have.

    :param limited: with a plan that has every bound, and with its metrics read once a second.
    """
    with _directory() as directory:
        http_port, mqtt_port = _free_ports(2)
        data, config = directory / "data", directory / "flowgate.toml"
        topics = '[[topics]]\nfilter = "live/#"\nhistory = false\n'
        config.write_text(_LIMITED + topics if limited else topics)
        command = [_command("twistd"), "-n", "--pidfile=", "flowgate", "--data", str(data), "--config", str(config)]
        command += ["--http", f"tcp:{http_port}:interface=127.0.0.1", "--mqtt", f"tcp:{mqtt_port}:interface=127.0.0.1"]
        with _process(command, directory, lambda: _http_answers(http_port)) as (pid, seconds):
            key = _api_key(data)
            token = _token(http_port, key)
            with _scraped(http_port) if limited else nullcontext():
                yield Running(Server(mqtt=mqtt_port, pid=pid, http=http_port, token=token, api_key=key), seconds)


def _api_key(data: Path) -> str:
    """Make an API key that may do everything."""
    command = [_command("flowgate"), "key", "create", "benchmark", "app", "--data", str(data)]
    made = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if made.returncode:
        raise StartFailed(f"no API key could be made: {made.stderr.strip()}")
    return made.stdout.strip()


def _token(port: int, api_key: str) -> str:
    """Exchange an API key for a token that outlives the round."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    body = json.dumps({"api_key": api_key, "ttl": 86400})
    connection.request("POST", "/token/", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    if response.status != 200:
        raise StartFailed(f"the API key was answered with {response.status}")
    return str(json.loads(answer)["token"])


@contextmanager
def moto_server() -> Iterator[Running]:
    """moto's Amazon SQS, which keeps everything in memory.

    It verifies no signature, closes each connection after one answer, and writes each request to its log: that is how
    its command runs it, and it has no option for that.
    """
    with _directory() as directory:
        (port,) = _free_ports(1)
        command = [_command("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
        with _process(command, directory, lambda: _http_answers(port, "/moto-api/data.json")) as (pid, seconds):
            yield Running(Server(mqtt=0, pid=pid, http=port, api_key="BENCHMARK.secret"), seconds)


_NCHAN_PLACES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")


def _nchan_module() -> Path | None:
    """nginx's module, where the distributions have it."""
    paths = (Path(place) / "ngx_nchan_module.so" for place in _NCHAN_PLACES)
    return next((path for path in paths if path.exists()), None)


@contextmanager
def nchan() -> Iterator[Running]:
    """nginx with nchan, which keeps its messages in memory.

    One worker, because the servers have one CPU where there are two: there a second one would only have it pass each
    message on to the other.  Its buffer holds more messages of a channel than are ever under way, so that no reader
    misses one; with 10, as by default, they would.  Nothing is logged, and no connection is closed after so many
    requests.
    """
    with _directory() as directory:
        (port,) = _free_ports(1)
        config = directory / "nginx.conf"
        config.write_text(
            f"load_module {_nchan_module()};\n"
            f"daemon off;\nworker_processes 1;\npid {directory}/pid;\nerror_log stderr error;\n"
            "worker_rlimit_nofile 8192;\nevents { worker_connections 4096; }\n"
            "http {\n access_log off;\n keepalive_requests 1000000000;\n tcp_nodelay on;\n"
            " nchan_shared_memory_size 256m;\n nchan_message_buffer_length 10000;\n"
            + "".join(f" {name}_temp_path {directory}/{name};\n" for name in _TEMPORARY)
            + f" server {{\n  listen 127.0.0.1:{port} backlog=4096;\n  location = /readyz {{ return 200; }}\n"
            "  nchan_channel_id $arg_topic;\n"
            "  location = /api/v1/publish { nchan_publisher http; }\n"
            "  location = /api/v1/subscribe { nchan_subscriber eventsource; nchan_subscriber_first_message newest; }\n"
            "  location = /ws { nchan_subscriber websocket; nchan_subscriber_first_message newest; }\n"
            " }\n}\n"
        )
        command = [_command("nginx"), "-p", str(directory), "-c", str(config)]
        with _process(command, directory, lambda: _http_answers(port)) as (pid, seconds):
            yield Running(Server(mqtt=0, pid=pid, http=port, nchan=True), seconds)


_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
"""What nginx would keep in directories of the system."""


def _nchan_version() -> str:
    """nchan's version, as the package manager has it, with nginx's: the module tells none."""
    query = ["dpkg-query", "--show", "--showformat", "${Version}", "libnginx-mod-nchan"]
    try:
        printed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        printed = ""
    found = re.search(r"\d+\.\d+[\w.]*", printed)
    return f"{found[0] if found else 'unknown'} (nginx {_printed_version('nginx', '-v')})"


def _moto_version() -> str:
    """moto's version: its command tells none, and it may be in an environment of its own."""
    python = Path(_command("moto_server")).read_text().partition("\n")[0].removeprefix("#!").strip()
    code = "import importlib.metadata; print(importlib.metadata.version('moto'))"
    try:
        printed = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return printed.strip()


def _mosquitto_version() -> str:
    return _printed_version("mosquitto", "-h")


TARGETS = {
    target.name: target
    for target in (
        Target("flowgate", "flowgate", lambda: importlib.metadata.version("flowgate"), flowgate),
        Target(
            "flowgate-limited",
            "flowgate",
            lambda: importlib.metadata.version("flowgate"),
            lambda: flowgate(limited=True),
            ours=True,
        ),
        Target("nats-server", "nats-server", lambda: _printed_version("nats-server", "--version"), nats_server),
        Target("mosquitto", "mosquitto", _mosquitto_version, mosquitto),
        Target("mosquitto-disk", "mosquitto", _mosquitto_version, lambda: mosquitto(disk=True), kept_only=True),
        Target("nchan", "nginx", _nchan_version, nchan, protocol="http", complete=lambda: _nchan_module() is not None),
        Target("moto_server", "moto_server", _moto_version, moto_server, protocol="sqs"),
    )
}
