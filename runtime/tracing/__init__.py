"""What a run did, from its trace: read it back, and measure.

    trace = read_trace(path)
    found = measure(trace)

records.py reads what the ranks leave (comm/timeline.py) and puts it on one clock, matches.py finds
what belongs together, chrome.py writes the file, trace.py reads it, pieces.py cuts each rank's
steps into parts, and measures.py makes the numbers. Knows all of runtime, and no command.
"""

from ringlet.runtime.tracing.chrome import write_trace
from ringlet.runtime.tracing.measures import Measures, measure
from ringlet.runtime.tracing.records import TraceError
from ringlet.runtime.tracing.trace import Trace, read_trace

__all__ = ["Measures", "Trace", "TraceError", "measure", "read_trace", "write_trace"]
