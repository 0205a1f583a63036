"""The short table of bench/gpu.py, from what gpu.json holds."""

# On an H200, greedy decoding after 512 tokens and the prompt of 2048: tokens a second.
MARKS = (("20b", "decode", "context", 512, 430), ("20b", "prefill", "tokens", 2048, 15000))


def us(seconds):
    return f"{seconds * 1e6:.1f} us" if abs(seconds) < 1e-2 else f"{seconds * 1e3:.1f} ms"


def percent(part, whole):
    return f"{100 * part / whole:.0f} %" if whole else "-"


def copy_rate(shape):
    return shape.get("rates", {}).get("copy_bytes_per_s")


def heading(data):
    card, made = data["card"], [s["made"] for s in data["shapes"].values() if "made" in s]
    name = made[0]["backend"].get("device") if made else None
    lines = [
        f"{card.get('name') or name or data['device']}, driver {card.get('driver_version', '-')}, "
        f"nvcc {data['nvcc'] or '-'}, {data['date']}, {data.get('seconds', 0):.0f} s in all"
    ]
    if made:
        lines.append(f"gptoss-native {made[0]['version']} {made[0]['commit'] or ''}".rstrip())
    if "build" in data:
        built = data["build"]
        lines.append(f"built for sm_{built['architecture']} in {built['seconds']:.0f} s")
    words = {True: "ok", False: "FAILED", None: "-"}
    for check in data["check"]:
        lines.append(f"{words[check['passed']]:6} {check['name']}: {check['text']}")
    return lines


def stage_cell(line, rate, decode):
    if line is None:
        return ""
    seconds = line["seconds"]
    moved = line["bytes"] / seconds
    cell = f"{us(seconds):>10} {moved / 1e9:4.0f} GB/s {percent(moved, rate):>5}"
    return cell if decode else f"{cell} {line['operations'] / seconds / 1e12:4.0f} TF/s"


def stage_lines(name, shape, decode):
    """A line for each stage and context, a column for each number of rows.

    A cell is the time of one call, its bytes a second and their share of the copy rate.
    """
    lines = [line for line in shape.get("stages", []) if line["decode"] == decode]
    if not lines:
        return []
    columns = sorted({line["rows"] for line in lines})
    keys = list(dict.fromkeys((line["stage"], line["context"]) for line in lines))
    at = {(line["stage"], line["context"], line["rows"]): line for line in lines}
    width = 27 if decode else 37
    title = f"{name} {'decode' if decode else 'prefill'} stages"
    out = [f"{title:24}" + "".join(f"{f'rows {rows}':>{width}}" for rows in columns)]
    stages = list(dict.fromkeys(stage for stage, _ in keys))
    for stage, context in sorted(keys, key=lambda key: (stages.index(key[0]), key[1])):
        label = f"{stage} {context}" if stage.startswith("attention") else stage
        cells = [stage_cell(at.get((stage, context, r)), copy_rate(shape), decode) for r in columns]
        out.append((f"{label:24}" + "".join(f"{cell:>{width}}" for cell in cells)).rstrip())
    return out


def stage_seconds(shape, rows, context, decode, steps=1):
    """Sum the stages of steps and the logits after them; None if one was not measured."""
    made = shape.get("made", {})
    windowed = made.get("windowed_layers", 0)
    layers = made.get("layers", 0)
    counts = {"embed": steps, "logits": 1, "sample": 1}
    counts |= {"attention_window": steps * windowed}
    counts |= {"attention_full": steps * (layers - windowed)}
    lines = shape.get("stages", [])
    names = {line["stage"] for line in lines}
    total = 0.0
    for stage in names:
        last = stage in ("logits", "sample")  # a prompt needs one row of them
        form = (1, True) if last and not decode else (rows, decode)
        found = [
            line["seconds"]
            for line in lines
            if line["stage"] == stage
            and (line["rows"], line["decode"]) == form
            and (stage != "attention_full" or line["context"] == context)
        ]
        if not found:
            return None
        # Past its window a layer costs the same: the longest context stands for the rest.
        total += counts.get(stage, steps * layers) * found[-1 if context else 0]
    return total if names else None


def between(stages, measured):
    if stages is None:
        return ""
    rest = measured - stages
    return (
        f"; stages {us(stages)} of {us(measured)}, between them {us(rest)}"
        f" ({percent(rest, measured)})"
    )


def decode_lines(name, shape):
    rate, out = copy_rate(shape), []
    for line in shape.get("decode", []):
        text = f"{name} decode at {line['context']}: {line['tokens_per_s']:.1f} tok/s"
        if rate:
            limit = rate / line["bytes"]
            share = percent(line["tokens_per_s"], limit)
            text += f", {share} of the {limit:.0f} tok/s of the copy rate"
        out.append(text + between(stage_seconds(shape, 1, line["context"], True), line["seconds"]))
    return out


def prefill_lines(name, shape):
    lines = shape.get("stages", [])
    steps = sorted({line["rows"] for line in lines if not line["decode"]})
    out = []
    for line in shape.get("prefill", []):
        tokens = line["tokens"]
        text = f"{name} prefill {tokens}: first token {us(line['ttft_s'])}"
        text += f", {line['tokens_per_s']:.0f} tok/s"
        fitting = [rows for rows in steps if tokens % rows == 0]
        if fitting:
            # Attention's cost is linear in the context: the mean step stands for all.
            rows = fitting[-1]
            total = stage_seconds(shape, rows, (tokens - rows) // 2, False, tokens // rows)
            text += between(total, line["ttft_s"])
        out.append(text)
    return out


def mark_lines(data):
    out = []
    for name, part, key, value, mark in MARKS:
        found = [line for line in data["shapes"].get(name, {}).get(part, []) if line[key] == value]
        rate = found[0]["tokens_per_s"] if found else None
        words = "not measured" if rate is None else "met" if rate > mark else "not met"
        said = "" if rate is None else f" ({rate:.0f})"
        out.append(f"mark on an H200: {name} {part} {value} > {mark} tok/s: {words}{said}")
    return out


def format_table(data):
    out = heading(data)
    for name, shape in data["shapes"].items():
        out.append("")
        if "made" in shape:
            made = shape["made"]
            dense = made.get("dense", data["dense"])  # absent from files of earlier commits
            out.append(
                f"{name}, dense {dense}, kv {made.get('kv', 'f16')}, fast: "
                f"{made['weight_bytes'] / 2**30:.1f} GiB made in {made['seconds']:.0f} s"
            )
        if "rates" in shape:
            rates = shape["rates"]
            out[-1] += (
                f"; copies {rates['copy_bytes_per_s'] / 1e9:.0f} GB/s, read and written"
                f"; reads {rates['read_bytes_per_s'] / 1e9:.0f} GB/s"
            )
        out += stage_lines(name, shape, True) + stage_lines(name, shape, False)
        out += decode_lines(name, shape) + prefill_lines(name, shape)
    out.append("")
    out += [f"note: {text}" for text in data["notes"]]
    out += [f"FAILED: {text}" for text in data["failed"]]
    return "\n".join(out + mark_lines(data))
