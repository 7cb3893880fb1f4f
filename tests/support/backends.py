"""Shared by tests: own code: packages as reproducible wheels, loose modules with what they import, references checked."""

BACKEND = '''\
"""A build backend that needs nothing: what it writes depends on the umask, the day and the folder."""
import os, pathlib, time, zipfile

def get_requires_for_build_wheel(settings=None):
    return []

def build_wheel(into, settings=None, metadata=None):
    name = "plants-1.0-py3-none-any.whl"
    print("built by the backend")
    pathlib.Path("build").mkdir()
    files = sorted(path for path in pathlib.Path("plants").rglob("*") if path.is_file())
    with zipfile.ZipFile(os.path.join(into, name), "w") as archive:
        for path in reversed(files) if os.umask(0) else files:
            archive.write(path)
        about = "Metadata-Version: 2.1\\nName: plants\\nVersion: 1.0\\nRequires-Dist: timm>=1\\n"
        archive.writestr("plants-1.0.dist-info/METADATA", about)
        archive.writestr("plants-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr("plants-1.0.dist-info/RECORD", time.ctime())
    return name
'''
