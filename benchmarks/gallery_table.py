"""What a gallery's results say, as Markdown for ganfast/systems/README.md, and as the few numbers that `ganfast run` shows."""

import re

RESULTS = "../../benchmarks/results/"  # from ganfast/systems/
PICTURES = "../../docs/gallery/"


def file_of(title: str) -> str:
    """A row's name, without an ending: "text-to-image --data portraits" has text-to-image-data-portraits.png."""
    return re.sub("[^a-zA-Z0-9]+", "-", title)


def reached(results: dict) -> dict[str, dict]:
    """name -> means, seeds, seconds, device, date, of the rows that have goals."""
    return {
        name: {
            "figures": {key: float(f"{value:.4g}") for key, value in one["mean"].items()},
            "seeds": len(one["runs"]),
            "seconds": round(one["seconds"]),
            "device": one.get("device", results["device"]),
            "date": one["date"],
        }
        for name, one in results["systems"].items()
        if one["goals"]
    }


def _figure(name: str, one: dict) -> str:
    values = [run["figures"][name] for run in one["runs"]]
    span = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
    text = f"{name} {one['mean'][name]:.3g}{span}"
    if name not in one["goals"]:
        return text
    sign, bound = one["goals"][name]
    return f"{text}, goal {sign.replace('<=', '≤').replace('>=', '≥')} {bound:g}{'' if one['reached'][name] else ' **missed**'}"


def section(results: dict, file: str) -> str:
    """The table, then each system's picture with whose data it shows."""
    link = f"[{file}]({RESULTS}{file})"
    lines = [
        f"{results['device']}, {results['processes']} runs at a time, {results['date']}: {link}. Means over fresh seeds, in brackets the",
        "lowest and the highest; a run is measured once, at its end, on data that was held out. A row of another machine says so.",
        "",
        "| `ganfast run` | what it does | reached | seeds | seconds |",
        "|---|---|---|---:|---:|",
    ]
    for name, one in results["systems"].items():
        figures = "<br>".join(_figure(key, one) for key in one["mean"])
        device = one.get("device", results["device"])
        elsewhere = "" if device == results["device"] else f"<br>({device}, {one['date']})"
        lines.append(f"| `{name}`{elsewhere} | {one['does']} | {figures} | {len(one['runs'])} | {one['seconds']:.0f} |")
    for name, one in results["systems"].items():
        credit = f"Data: {one['credit']}." if one["credit"] else ""
        lines += ["", f"![{name}: {one['does']}]({PICTURES}{file_of(name)}.png)", ""]
        lines += [f"`{name}`, seed {one['runs'][0]['seed']}, synthetic. {credit}".strip()]
    return "\n".join(lines)
