using System.Buffers;
using System.Diagnostics;
using System.Text.Json;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Linux;
using Wayleave.Ports.Programs;

namespace Wayleave.Ibverbs.Observation;

// Chrome's trace-event format, which ui.perfetto.dev opens. A track of its own for each queue pair that packets were
// for, named by its number; calls of the program on tracks by thread; what the machine says of itself on the track of
// the process. Whoever started the program has begun the array, and closes it.

/// <summary>
/// What this process does, as it does it: written to the file at the end of each turn of a port and of each control
/// call, so that a program that is killed leaves a trace too. Any thread; under whatever lock.
/// </summary>
internal sealed class ProgramTrace : ITraceSink
{
    private const long EventsMax = 1_000_000;

    private readonly Lock _lock = new();
    private readonly ArrayBufferWriter<byte> _buffer = new(1 << 16);
    private readonly AppendFile _file;
    private readonly HashSet<long> _tracks = [];
    private long _count;

    private ProgramTrace(AppendFile file)
    {
        _file = file;
        Begin("process_name", "M", 0, out Utf8JsonWriter writer);
        writer.WriteStartObject("args");
        writer.WriteString(
            "name", $"{Path.GetFileName(Environment.ProcessPath)} {Environment.ProcessId}");
        End(writer);
    }

    /// <summary>Null unless the variable names a file; one that cannot be opened is said once, and is none.</summary>
    public static ProgramTrace? Instance { get; } = Open();

    public void Emit(in TraceEvent traceEvent)
    {
        lock (_lock)
        {
            if (IsFull())
            {
                return;
            }

            Begin(traceEvent.Name, "i", 0, out Utf8JsonWriter writer);
            writer.WriteString("s", "p");
            writer.WriteStartObject("args");
            writer.WriteString("subject", traceEvent.Subject);
            writer.WriteNumber("argument", traceEvent.Argument);
            writer.WriteNumber("detail", traceEvent.Detail);
            End(writer);
        }
    }

    /// <summary>A packet that was sent or has come.</summary>
    /// <param name="isSent">Which.</param>
    /// <param name="peer">To or from.</param>
    /// <param name="datagram">BTH to ICRC; what is none is passed over.</param>
    public void AddPacket(bool isSent, Gid peer, ReadOnlySpan<byte> datagram)
    {
        lock (_lock)
        {
            if (PacketView.TryParse(datagram, out PacketView packet) != DropReason.None || IsFull())
            {
                return;
            }

            NameTrack(packet.DestQp, isSent ? "to" : "for");
            Begin(packet.Opcode.ToString(), "i", packet.DestQp, out Utf8JsonWriter writer);
            writer.WriteString("s", "t");
            writer.WriteStartObject("args");
            writer.WriteString(isSent ? "to" : "from", peer.ToString());
            writer.WriteNumber("qp", packet.DestQp);
            writer.WriteNumber("psn", packet.Psn);
            writer.WriteNumber("bytes", datagram.Length);
            End(writer);
        }
    }

    /// <summary>A control call that is over.</summary>
    /// <param name="name">Of what was called.</param>
    /// <param name="start"><see cref="Stopwatch.GetTimestamp"/> as it began.</param>
    /// <param name="errno">What it returned.</param>
    public void AddCall(string name, long start, Errno errno)
    {
        lock (_lock)
        {
            if (!IsFull())
            {
                Begin(name, "X", 0x1000_0000L + Environment.CurrentManagedThreadId, out Utf8JsonWriter writer, start);
                writer.WriteNumber("dur", Microseconds(Stopwatch.GetTimestamp() - start));
                writer.WriteStartObject("args");
                writer.WriteString("result", errno.ToString());
                End(writer);
            }
        }
    }

    /// <summary>Hands what there is to the kernel. A file that takes no more ends the trace.</summary>
    public void Flush()
    {
        lock (_lock)
        {
            if (_buffer.WrittenCount > 0 && _file.Append(_buffer.WrittenSpan) != Errno.Success)
            {
                _count = EventsMax;
            }

            _buffer.Clear();
        }
    }

    private static ProgramTrace? Open()
    {
        if (Environment.GetEnvironmentVariable(ProgramVariables.Trace) is not { Length: > 0 } path)
        {
            return null;
        }

        try
        {
            return new ProgramTrace(new AppendFile(path));
        }
        catch (LinuxException e)
        {
            Console.Error.WriteLine($"wayleave: {e.Message}");
            return null;
        }
    }

    private static double Microseconds(long ticks) => ticks * 1e6 / Stopwatch.Frequency;

    private bool IsFull() => _count++ >= EventsMax;

    private void NameTrack(long track, string direction)
    {
        if (_tracks.Add(track))
        {
            Begin("thread_name", "M", track, out Utf8JsonWriter writer);
            writer.WriteStartObject("args");
            writer.WriteString("name", $"packets {direction} queue pair 0x{track:x6}");
            End(writer);
        }
    }

    private void Begin(string name, string phase, long track, out Utf8JsonWriter writer, long? timestamp = null)
    {
        writer = new Utf8JsonWriter(_buffer);
        writer.WriteStartObject();
        writer.WriteString("name", name);
        writer.WriteString("ph", phase);
        writer.WriteNumber("pid", Environment.ProcessId);
        writer.WriteNumber("tid", track);
        writer.WriteNumber("ts", Microseconds(timestamp ?? Stopwatch.GetTimestamp()));
    }

    // Closes the arguments and the event.
    private void End(Utf8JsonWriter writer)
    {
        writer.WriteEndObject();
        writer.WriteEndObject();
        writer.Flush();
        writer.Dispose();
        _buffer.Write(",\n"u8);
    }
}
