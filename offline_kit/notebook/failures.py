"""Read the failures that a rendered notebook reports as data.

A `KitError` that ends a cell is printed as one line of JSON (`KitError.to_json`). Executed notebooks and Kaggle's
logs both keep that line, so nothing has to be parsed back out of a traceback.
"""

import json
import re

from offline_kit.notebook.runtime.kit_runtime import FAILURE_KEY, KitError

_LINE = re.compile(rf'\{{"{FAILURE_KEY}": .*\}}$', re.MULTILINE)


def find_failure(output: str) -> KitError | None:
    """Return the last failure in a notebook's output or log; None if there is none."""
    for line in reversed(_LINE.findall(output)):
        try:
            fields = json.loads(line)[FAILURE_KEY]
            code, message, hint = (str(fields[name]) for name in ("code", "what", "hint"))
            return KitError(message, [str(detail) for detail in fields["details"]], hint=hint, code=code)
        except (ValueError, KeyError, TypeError):
            continue  # a notebook may print anything
    return None
