"""The layout: imports point one way."""

import ast
import pathlib

# Each room, and the rooms it may import.
ALLOWED = {
    "errors": set(),
    "platform": {"errors", "io"},
    "io": {"errors"},
    "models": {"errors"},
    "convert": {"errors", "io", "models"},
    "data": {"errors", "io"},
    "training": {"errors", "io", "models", "convert", "data"},
    "visualize": {"errors", "io", "models", "convert", "data"},
    "testing": {"errors", "io", "models", "convert", "data"},
    "nnx": {"errors", "models", "convert"},
    "cli": {"errors", "platform", "io", "models", "convert", "data", "training", "visualize"},
    "__main__": {"cli"},
    "__init__": set(),
}


def room(path: pathlib.Path, package: pathlib.Path) -> str:
    return path.relative_to(package).with_suffix("").parts[0]


def imported_rooms(path: pathlib.Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxcnn":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxcnn."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            rooms |= {parts[1] for parts in names if parts[0] == "jaxcnn" and len(parts) > 1}
    return rooms - {"__version__"}


def test_imports_point_down(root):
    package = root / "jaxcnn"
    for path in package.rglob("*.py"):
        own = room(path, package)
        others = imported_rooms(path) - {own}
        assert others <= ALLOWED[own], f"{path} imports {others - ALLOWED[own]}"


def test_no_module_imports_itself_in_a_circle(root):
    package = root / "jaxcnn"
    modules = {}
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        modules[name] = path

    def at_import(path: pathlib.Path) -> set[str]:
        """The modules that a module imports when it is imported, not within functions."""
        found = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxcnn"):
                found.add(node.module)
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        return found & modules.keys()

    graph = {name: at_import(path) - {name} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in graph[name]:
                # A package's face imports its modules, and they each other, not their face.
                if not other.startswith(f"{name}.") and not name.startswith(f"{other}."):
                    visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
