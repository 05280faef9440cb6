using Wayleave.Host.Control;

namespace Wayleave.Cli.Demo;

/// <summary>What <c>wayleave demo --json</c> prints: one object, whose fields scripts rely on.</summary>
public sealed record DemoReport
{
    public string Schema { get; init; } = "wayleave.demo.v1";

    public required ulong Bytes { get; init; }

    public required string Sha256 { get; init; }

    /// <summary>Whether the bytes in the other host's GPU have the checksum of the source.</summary>
    public required bool Sha256Match { get; init; }

    /// <summary>Bytes that only passed through host memory on their way between devices, both hosts together.</summary>
    public required long StagingBytes { get; init; }

    /// <summary>Evictions and restores of the target while the transfer ran.</summary>
    public required int Moves { get; init; }

    /// <summary>Packets that met the target while it was being moved.</summary>
    public required long DynamicFaults { get; init; }

    public required long Retransmits { get; init; }

    public required double ThroughputBytesPerS { get; init; }

    /// <summary>The lowest grade of the proofs.</summary>
    public required string RevokeGrade { get; init; }

    /// <summary>The longest time from the revoke to its proof, in microseconds.</summary>
    public required double RevokeUs { get; init; }

    /// <summary>Payload that came for the dead keys after the proofs and was refused.</summary>
    public required long BytesRejectedAfterRevoke { get; init; }

    /// <summary>Bytes of the reclaimed memory that changed after the proof, found by reading them.</summary>
    public required long LateWrites { get; init; }

    /// <summary>Bytes of the new owner that the old user could read.</summary>
    public required long LateReads { get; init; }

    /// <summary>Whether a registration got the number of a dead key.</summary>
    public required bool KeyReused { get; init; }

    /// <summary>How the ICRC of the peer was checked, as this host saw it.</summary>
    public required string IcrcCheck { get; init; }

    public required IReadOnlyList<ProofDocument> Proof { get; init; }

    public required IReadOnlyList<TakeBackReport> TakenBack { get; init; }

    /// <summary>Everything that must hold for exit code 0.</summary>
    public bool Passed { get; init; }
}

/// <summary>One region that was taken back.</summary>
public sealed record TakeBackReport
{
    public required string Name { get; init; }

    /// <summary><c>dynamic</c> or <c>pinned_revocable</c>.</summary>
    public required string Region { get; init; }

    public required uint Rkey { get; init; }

    public required double RevokeUs { get; init; }

    public required ulong ReclaimedBytes { get; init; }

    /// <summary>How much of the new owner's memory was the old one's: all of it, or the check says nothing.</summary>
    public required ulong OverlapBytes { get; init; }

    public required long WrittenBeforeBytes { get; init; }

    /// <summary>PSN of the last packet that was placed, and of the first that was refused.</summary>
    public required uint? LastPlacedPsn { get; init; }

    public required uint? FirstRefusedPsn { get; init; }

    public required long RejectedBytes { get; init; }

    public required long LateWriteBytes { get; init; }

    public required long LateReadBytes { get; init; }

    public required bool KeyReused { get; init; }

    /// <summary>How the writer's queue pair ended.</summary>
    public required string WriterStatus { get; init; }

    /// <summary>New connections on which the old key was tried again, and how many of them were refused.</summary>
    public required int Attempts { get; init; }

    public required int Refused { get; init; }
}
