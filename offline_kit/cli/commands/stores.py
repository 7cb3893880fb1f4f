"""The commands about images and the cache."""

from pathlib import Path
from typing import Any

import click

from offline_kit.cli import options
from offline_kit.cli.console import Console, pick
from offline_kit.core import files
from offline_kit.core.cache import Cache
from offline_kit.project import images


@click.group(cls=options.CommandGroup)
def image() -> None:
    """List, show and capture Kaggle's images."""


@image.command("list", examples=("offline-kit image list", "offline-kit image list --json"))
@options.common_options
def image_list(console: Console) -> None:
    """List the built-in images."""
    built_in = images.load_built_in_images()
    for item in built_in:
        packages = f"{len(item.packages)} packages"
        console.print_lines([f"{item.name:<20} Python {item.python_minor}   {packages}   {item.title}"])
    console.print_result({"ok": True, "images": [_image_facts(item) for item in built_in]})


@image.command(
    "show",
    examples=(
        "offline-kit image show kaggle-2026-10-gpu torch",
        "offline-kit image show kaggle-2026-10-cpu --constraints > constraints.txt",
    ),
)
@click.argument("name")
@click.argument("package", required=False)
@options.flag(
    "--constraints",
    "Print its versions as a constraints file, to train with the same ones: `pip install -c`.",
)
@options.common_options
def image_show(name: str, package: str | None, console: Console, constraints: bool) -> None:
    """Show an image, or one package in it."""
    item = images.load_image(name, accelerator="none", project=Path.cwd())
    if package:
        package = images.find_package(item, package)
        version, is_protected = item.packages.get(package, ""), item.is_protected(package)
        protected = "   protected: replaced only if `replace` names it" if is_protected else ""
        console.print_lines([f"{package}=={version or '(version not known)'}   in {item.name}{protected}"])
        facts = {"package": package, "version": version, "protected": is_protected}
        console.print_result({"ok": True, "image": item.name, **facts})
        return
    if constraints:
        # No index has local versions such as 2.11.0+cpu.
        pins = [f"{name}=={item.public_version(name)}" for name in sorted(item.packages)]
        console.print_lines([f"# {item.name}, Python {item.python}", *pins])
        facts = {"image": item.name, "python": item.python, "constraints": pins}
        console.print_result({"ok": True, **facts})
        return
    facts = _image_facts(item)
    console.print_lines([f"{key}: {value}" for key, value in facts.items() if value])
    names = sorted({*item.packages, *item.unversioned})
    console.print_lines(["", *(f"{name}=={item.packages.get(name, '')}" for name in names)])
    console.print_result({"ok": True, **facts, "packages": dict(item.packages)})


@image.command(
    "capture",
    examples=(
        "offline-kit image capture --accelerator NvidiaTeslaT4",
        "offline-kit image capture --on here -o my-image.toml",
        "offline-kit image capture --container gcr.io/kaggle-images/python",
    ),
)
@click.option(
    "--on",
    type=click.Choice(["kaggle", "local", "here"]),
    default="kaggle",
    show_default=True,
    callback=options.word_target,
    help="Capture with a private notebook on Kaggle or on a local Kaggle, or capture the running environment.",
)
@options.AT
@options.value(
    "--container", "REF", "Capture this container image of podman or docker; no account is needed."
)
@options.value("--accelerator", "NAME", "Machine shape whose image to capture; default none (CPU).")
@options.value(
    "-o --output", "FILE", "File to write; default the image's name with .toml.", type=options.PATH
)
@options.common_options
def image_capture(
    on: str, at: str, container: str | None, accelerator: str | None, output: Path | None, console: Console
) -> None:
    """Capture an image and its packages as a file for --image."""
    from offline_kit.project import config
    from offline_kit.workflow import build_remotely

    if container:
        text = build_remotely.capture_container(container, console)
    elif on == "here":
        text = build_remotely.capture_here()
    else:
        settings = config.load_config(Path.cwd(), {"accelerator": accelerator})
        with options.session_of(settings, on, at, console, current=True) as session:
            text = build_remotely.capture_on_kaggle(session)
    path, item = build_remotely.write_image(text, output)
    console.note(f"{item.title}, glibc {item.glibc[0]}.{item.glibc[1]}, {item.provenance}")
    console.step(f"written to '{path}'; build for it with --image {path}")
    if container:
        console.step(
            f'to make it the project\'s default, set image = "{path}" and container = "{item.digest or container}"'
        )
    console.print_result({"ok": True, "file": str(path), **_image_facts(item)})


def _image_facts(item: images.Image) -> dict[str, Any]:
    return {
        **pick(item, "name title python accelerator"),
        "glibc": ".".join(map(str, item.glibc)),
        **pick(item, "digest provenance confidence"),
    }


@click.group(cls=options.CommandGroup, short_help="Manage the cache.")
def cache() -> None:
    """Manage the cache of downloads, built wheels and environments."""


@cache.command("prune", examples=("offline-kit cache prune", "offline-kit cache prune --days 7"))
@click.option(
    "--days",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    help="Keep what was used within this number of days.",
)
@options.common_options
def cache_prune(days: int, console: Console) -> None:
    """Delete what has not been used lately."""
    freed = Cache(files.cache_dir()).prune_unused(unused_days=days)
    console.print_lines([f"freed {files.format_size(freed)}"])
    console.print_result({"ok": True, "freed": freed})
