using System.Collections.Concurrent;
using System.Diagnostics;
using System.Text.Json;
using Wayleave.Core;

namespace Wayleave.Host.Tracing;

/// <summary>
/// Keeps the events of one host and writes them as Chrome trace-event JSON, which ui.perfetto.dev opens. Time is the
/// machine's monotonic clock, so that the files of two processes of one machine fit together.
/// </summary>
/// <param name="processName">What the track is called: the host's name.</param>
/// <param name="eventLimit">
/// Events kept; more are counted and dropped, so that a long run cannot fill the memory.
/// </param>
public sealed class ChromeTrace(string processName, int eventLimit = 1_000_000) : ITraceSink
{
    private readonly ConcurrentQueue<(long Timestamp, TraceEvent Event)> _events = new();
    private long _count;

    /// <summary>Events that did not fit.</summary>
    public long Dropped => Math.Max(0, Interlocked.Read(ref _count) - eventLimit);

    public void Emit(in TraceEvent traceEvent)
    {
        if (Interlocked.Increment(ref _count) <= eventLimit)
        {
            _events.Enqueue((Stopwatch.GetTimestamp(), traceEvent));
        }
    }

    /// <summary>
    /// Writes what was kept as the elements of a JSON array: the caller has started the array, and may add another
    /// process's.
    /// </summary>
    public void WriteTo(Utf8JsonWriter writer, int processId)
    {
        ArgumentNullException.ThrowIfNull(writer);
        writer.WriteStartObject();
        writer.WriteString("name", "process_name");
        writer.WriteString("ph", "M");
        writer.WriteNumber("pid", processId);
        writer.WriteStartObject("args");
        writer.WriteString("name", processName);
        writer.WriteEndObject();
        writer.WriteEndObject();
        foreach ((long timestamp, TraceEvent e) in _events)
        {
            WriteEvent(writer, processId, timestamp, e);
        }
    }

    // NAME.start opens a slice of NAME on the subject's own track; any later NAME.* event of the same subject that ends
    // the operation closes it. Everything else is an instant.
    private static void WriteEvent(Utf8JsonWriter writer, int processId, long timestamp, in TraceEvent e)
    {
        int dot = e.Name.LastIndexOf('.');
        string operation = dot < 0 ? e.Name : e.Name[..dot];
        string step = dot < 0 ? string.Empty : e.Name[(dot + 1)..];
        (string phase, string name) = step switch
        {
            "start" => ("b", operation),
            "end" or "retired" or "quarantined" or "failed" => ("e", operation),
            _ => ("n", e.Name),
        };
        writer.WriteStartObject();
        writer.WriteString("name", name);
        writer.WriteString("cat", operation);
        writer.WriteString("ph", phase);
        writer.WriteNumber("pid", processId);
        writer.WriteNumber("tid", 1);
        writer.WriteString("id", e.Subject);
        writer.WriteNumber("ts", timestamp * 1e6 / Stopwatch.Frequency);
        writer.WriteStartObject("args");
        writer.WriteString("subject", e.Subject);
        writer.WriteNumber("argument", e.Argument);
        writer.WriteNumber("detail", e.Detail);
        writer.WriteString("result", step);
        writer.WriteEndObject();
        writer.WriteEndObject();
    }
}
