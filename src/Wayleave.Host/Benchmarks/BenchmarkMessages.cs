using System.Text.Json.Serialization;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Leases;

namespace Wayleave.Host.Benchmarks;

// One JSON object per line, on the standard input and output of the passive process:
//
//   active                              passive
//   open (options)               ->
//                                <-     ends, key, address and length of its region
//   connect (its ends and key)   ->
//                                <-     counters
//   start / stop                 ->     the test's own part of the passive side: answers, receives
//                                <-     counters, each time
//   start_limit / stop_limit     ->     reads what the active side blasts
//                                <-     counters, each time
//   lend (a fresh end)           ->     revoke only: makes fresh memory, and takes it back once it is being written
//                                <-     end and key
//   inspect                      ->
//                                <-     what the take-back was like
//   end of input                 ->     ends

internal enum PassiveVerb
{
    Open,
    Connect,
    Start,
    Stop,
    StartLimit,
    StopLimit,
    Lend,
    Inspect,
}

internal sealed record PassiveCommand(PassiveVerb Verb)
{
    public BenchmarkOptions? Options { get; init; }

    public EndMessage? Peer { get; init; }
}

internal sealed record PassiveReply
{
    /// <summary>One line for people when the command failed; the passive process ends after it.</summary>
    public string? Error { get; init; }

    public EndMessage? End { get; init; }

    /// <summary>Where to send what measures the limit.</summary>
    public int? LimitPort { get; init; }

    public CounterSample? Counters { get; init; }

    public TakeBackSample? TakeBack { get; init; }
}

/// <summary>One side's memory and queue pairs, as the other must know them.</summary>
internal sealed record EndMessage(IReadOnlyList<PairMessage> Pairs, uint RKey, ulong Address, ulong LengthBytes);

internal sealed record PairMessage(
    string Gid, ushort UdpPort, uint QpNumber, uint Psn, int PathMtuBytes, int? ReceiveBufferBytes, int FirstsAhead)
{
    public static PairMessage From(ConnectionEnd end) =>
        new(
            end.Gid.ToString(),
            end.UdpPort,
            end.QpNumber,
            end.Psn,
            end.PathMtuBytes,
            end.ReceiveBufferBytes,
            end.FirstsAhead);

    public ConnectionEnd ToEnd() =>
        FirstsAhead < 0 ? throw new InvalidDataException($"{FirstsAhead} messages cannot begin before their turn")
        : Devices.Rdma.Wire.Gid.TryParse(Gid, out Gid gid)
            ? new ConnectionEnd(gid, UdpPort, QpNumber, Psn, PathMtuBytes)
            {
                ReceiveBufferBytes = ReceiveBufferBytes,
                FirstsAhead = FirstsAhead,
            }
            : throw new InvalidDataException($"'{Gid}' is not a GID");
}

/// <summary>What a process counted since it started.</summary>
internal sealed record CounterSample
{
    /// <summary>By all threads, exact.</summary>
    public long AllocatedBytes { get; init; }

    /// <summary>By the second compiler too: a warm process compiles nothing more.</summary>
    public long CompiledMethods { get; init; }

    public long Retransmits { get; init; }

    public long Timeouts { get; init; }

    public long Probes { get; init; }

    public long SequenceNaks { get; init; }

    public long SocketDrops { get; init; }

    public long Operations { get; init; }

    public long Bytes { get; init; }
}

/// <summary>One take-back under load.</summary>
internal sealed record TakeBackSample(
    double Microseconds,
    string Grade,
    long VoluntarySwitches,
    long InvoluntarySwitches,
    long LateBytes,
    long RejectedBytes,
    long BytesBefore);

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    UseStringEnumConverter = true)]
[JsonSerializable(typeof(PassiveCommand))]
[JsonSerializable(typeof(PassiveReply))]
internal sealed partial class BenchmarkJson : JsonSerializerContext;
