"""Reads what scripts/offcpu has bpftrace say: sums of microseconds by thread name and kernel stack. Prints them, the longest
first, and with a second argument draws them as a flame graph."""

import re
import subprocess
import sys

said, out = sys.argv[1], sys.argv[2]
waits = []
for name, frames, micros in re.findall(r"@waited_us\[([^,\n]*), ?\n(.*?)\]: (\d+)", open(said).read(), re.S):
    stack = [re.sub(r"\+\d+$", "", frame.strip()) for frame in frames.strip().splitlines() if frame.strip()]
    waits.append((int(micros), name, stack))
if not waits:
    sys.exit("scripts/offcpu: no thread of it came back from a wait: is it at work?")
waits.sort(reverse=True)
print(f"{'waited':>12}  {'thread':16} where")
for micros, name, stack in waits[:25]:
    # The scheduler's own frames say nothing.
    told = [frame for frame in stack if not re.match(r"(__)?schedule|prepare_task_switch|__traceiter", frame)]
    print(f"{micros / 1000:9.1f} ms  {name:16} {' < '.join(told[:5])}")
if out:
    folded = "".join(f"{name};{';'.join(reversed(stack))} {micros}\n" for micros, name, stack in waits)
    with open(out, "w") as svg:
        drawing = ["inferno-flamegraph", "--title", "off the processor", "--countname", "us", "--colors", "blue"]
        subprocess.run(drawing, input=folded, stdout=svg, text=True, check=True)
    print(f"drawn: {out}")
