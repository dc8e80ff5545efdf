"""Compares our descriptors with those inside the published `hatchet-sdk` package (and `opentelemetry-proto`, if it is
installed): packages, messages, enums, field numbers, types, presence, and the paths of methods.

    python3 -m venv sdk && sdk/bin/pip install hatchet-sdk opentelemetry-proto
    cargo run -q -p mainspring-hatchet --example descriptors > hatchet.fds
    sdk/bin/python crates/hatchet/tests/check_against_sdk.py hatchet.fds

Every difference is one line; the exit status is 1 if there is one. Files of Hatchet must be equal in both directions.
Of OpenTelemetry we have a part, so there what we have must be theirs.
"""

import importlib
import importlib.metadata
import pathlib
import sys

from google.protobuf import descriptor_pb2

Field = descriptor_pb2.FieldDescriptorProto


def theirs(package):
    """Every file that the generated modules below a Python package were made from."""
    for root in map(pathlib.Path, package.__path__):
        for path in sorted(root.rglob("*_pb2.py")):
            # Some folders have no __init__.py, so the files are what there is to go by.
            name = ".".join((package.__name__, *path.relative_to(root).with_suffix("").parts))
            file = descriptor_pb2.FileDescriptorProto()
            importlib.import_module(name).DESCRIPTOR.CopyToProto(file)
            yield file


def facts(files):
    """What travels, as a flat table: what it is about -> what is said of it."""
    table = {}

    def message(prefix, item):
        name = f"{prefix}.{item.name}"
        table[f"message {name}"] = "map entry" if item.options.map_entry else "message"
        for field in item.field:
            one_of = ""
            # A message field has presence whether its file says so or not.
            presence = field.proto3_optional and field.type != Field.TYPE_MESSAGE
            if field.HasField("oneof_index") and not field.proto3_optional:
                one_of = " in " + item.oneof_decl[field.oneof_index].name
            table[f"field {name} {field.number}"] = (
                f"{field.name}: {Field.Label.Name(field.label)} {Field.Type.Name(field.type)} {field.type_name}"
                f"{' with presence' if presence else ''}{one_of}"
            )
        for nested in item.nested_type:
            message(name, nested)
        for nested in item.enum_type:
            enum(name, nested)

    def enum(prefix, item):
        table[f"enum {prefix}.{item.name}"] = "enum"
        for value in item.value:
            table[f"value {prefix}.{item.name} {value.number}"] = value.name

    for file in files:
        prefix = f".{file.package}" if file.package else ""
        for item in file.message_type:
            message(prefix, item)
        for item in file.enum_type:
            enum(prefix, item)
        for service in file.service:
            for method in service.method:
                path = f"{prefix}.{service.name}/{method.name}"[1:]
                table[f"method /{path}"] = (
                    f"{'stream ' if method.client_streaming else ''}{method.input_type} -> "
                    f"{'stream ' if method.server_streaming else ''}{method.output_type}"
                )
    return table


def compare(what, ours, published, whole):
    """Prints each difference, and says how many there are."""
    differences = 0
    for key in sorted(set(ours) | set(published)):
        mine, other = ours.get(key), published.get(key)
        if mine == other or (mine is None and not whole):
            continue
        differences += 1
        print(f"{key}: ours is {mine!r}, published is {other!r}")
    print(f"{what}: {len(ours)} facts of ours, {len(published)} published, {differences} differences")
    return differences


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    ours = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(sys.argv[1]).read_bytes())
    hatchet = [file for file in ours.file if file.package in ("", "v1")]
    otel = [file for file in ours.file if file.package.startswith("opentelemetry.")]

    contracts = importlib.import_module("hatchet_sdk.contracts")
    version = importlib.metadata.version("hatchet-sdk")
    differences = compare(f"hatchet-sdk {version}", facts(hatchet), facts(theirs(contracts)), whole=True)
    try:
        package = importlib.import_module("opentelemetry.proto")
        version = importlib.metadata.version("opentelemetry-proto")
    except ImportError:
        print("opentelemetry-proto: not installed, not compared")
    else:
        differences += compare(f"opentelemetry-proto {version}", facts(otel), facts(theirs(package)), whole=False)
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
