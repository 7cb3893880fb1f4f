"""Pythons that start at once with large libraries imported: half of the CPU time of the tests was that.

`warm_python(...)` is the path of a program that is used as `python worker.py`, `python -m kaggle.cli` or `python -c ...`.
It hands its arguments, environment and streams to a server that has the libraries imported, and that forks a process for each.
"""

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_PROGRAM = """#!{python} -IS
import json, os, socket
import sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    job = {{"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}}
    socket.send_fds(server, [json.dumps(job).encode()], [0, 1, 2])
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(10) or b"0"))
"""
_SERVER = """
import contextlib, gc, importlib, json, os, runpy, shutil, signal, socket, sys, threading, types

def run(connection):
    data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while more := connection.recv(1 << 16):
        data += more
    job = json.loads(data)
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    options = job["argv"]
    while options[0] == "-P":
        options = options[1:]
    kind = options[0] if options[0] in ("-m", "-c") else ""
    sys.argv = options[1:] if kind else options
    first = {"-c": "", "-m": os.getcwd()}.get(kind, os.path.dirname(os.path.abspath(options[0])))
    entries = [first] * (job["argv"][0] != "-P") + job["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [entry for entry in entries if entry or entry is first]
    for stream in ("stdin", "stdout", "stderr"):
        setattr(sys, stream, open(getattr(sys, stream).fileno(), getattr(sys, stream).mode, closefd=False))
    try:
        if kind == "-m":
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(sys.argv[0], main.__dict__)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(str(code).encode())
    os._exit(code)

for name in sys.argv[2:]:
    with contextlib.suppress(Exception):
        importlib.import_module(name)
gc.freeze()  # no process looks for garbage among the libraries, and their pages stay shared
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(64)
print(flush=True)
def end_with_the_tests():
    os.read(0, 1)
    shutil.rmtree(os.path.dirname(sys.argv[1]), ignore_errors=True)
    os._exit(0)

threading.Thread(target=end_with_the_tests, daemon=True).start()
while True:
    connection, _ = server.accept()
    if os.fork() == 0:
        server.close()
        run(connection)
    connection.close()
"""


def client_python() -> str:
    """Return the Python that has Kaggle's client; another one runs the same tests with another version."""
    return os.environ.get("OFFLINE_KIT_TEST_CLIENT") or warm_python(*_client_libraries())


def torch_python() -> str:
    """Return a Python that has torch."""
    return warm_python("torch")


def notebook_python() -> str:
    """Return a Python for notebooks, with the libraries that most of them import."""
    learning = (f"sklearn.{name}" for name in ("ensemble", "linear_model", "pipeline", "preprocessing"))
    return warm_python("torch", "pandas", "joblib", "matplotlib.pyplot", *learning)


def link_environment(project: Path, python: str) -> None:
    """Let a project have a `.venv` with this Python."""
    program = project / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.symlink_to(python)


@functools.cache
def _client_libraries() -> tuple[str, ...]:
    """Return what Kaggle's client and kagglehub import: both read the environment when they are imported themselves."""
    code = (
        "import sys, kaggle\ntry: import kagglehub\nexcept ImportError: pass\n"
        "print(*[n for n in sys.modules if n.partition('.')[0] not in ('kaggle', 'kagglehub')])"
    )
    env = os.environ | {"KAGGLE_USERNAME": "nobody", "KAGGLE_KEY": "none"}
    done = subprocess.run([sys.executable, "-P", "-c", code], env=env, capture_output=True, text=True)
    return tuple(done.stdout.split())


@functools.cache
def warm_python(*modules: str) -> str:
    """Start a server with these modules, which ends with this process, and return the program's path.

    Elsewhere than on Unix, that is this Python.
    """
    if os.name != "posix":
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    address = str(folder / "socket")
    server = subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVER, address, *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout
    server.stdout.readline()
    program = folder / "python"
    program.write_text(_PROGRAM.format(python=os.path.realpath(sys.executable), address=address))
    program.chmod(0o755)
    return str(program)
