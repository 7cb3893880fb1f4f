"""Small questions about calls and names in the syntax of a notebook's Python."""

import ast


def find_method_calls(tree: ast.Module, *names: str) -> list[ast.Call]:
    """Return the calls of methods by these names."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names
    ]


def is_loose_load(call: ast.Call) -> bool:
    """Whether a checkpoint may leave weights as they were built."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "load_weights":
        return any(is_constant(find_argument(call, name, 9), True) for name in ("by_name", "skip_mismatch"))
    return is_constant(find_argument(call, "strict", 1), False)


def owner_name(call: ast.Call) -> str:
    """Return the name whose method is called: "model" for `model.module.load_state_dict(...)`."""
    node: ast.expr = call.func
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def find_argument(call: ast.Call, name: str, place: int) -> ast.expr | None:
    """Return an argument of a call by its name or its place."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    plain = [positional for positional in call.args if not isinstance(positional, ast.Starred)]
    return plain[place] if place < len(plain) else None


def setting_name(node: ast.expr | None) -> str:
    """Return what a setting is called: "pretrained" for `CFG.pretrained`, `CFG["pretrained"]` and `pretrained`."""
    if isinstance(node, ast.Subscript):
        return (
            node.slice.value
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
            else ""
        )
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_constant(node: ast.expr | None, value: object) -> bool:
    """Whether an expression is this constant."""
    return isinstance(node, ast.Constant) and node.value is value
