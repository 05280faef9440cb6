using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>What the checks of a request came to: done, or which answer ends it (roce.md A5, R3 to R11).</summary>
/// <param name="Outcome">Done, or what the memory said; <see cref="AccessOutcome.Done"/> also for an invalid
/// request.</param>
/// <param name="Syndrome">0, or the NAK of a request that is wrong whatever the memory holds.</param>
/// <param name="ReceiveStatus">How a receive in use ends with that NAK.</param>
/// <param name="Region">The region that refused, if there is one.</param>
internal readonly record struct Verdict(
    AccessOutcome Outcome, byte Syndrome, WorkCompletionStatus ReceiveStatus, MemoryRegion? Region)
{
    public static Verdict Accepted => default;

    public bool IsAccepted => Outcome == AccessOutcome.Done && Syndrome == 0;

    /// <summary>NAK 0x61: the request itself is wrong.</summary>
    public static Verdict Invalid(
        WorkCompletionStatus receiveStatus = WorkCompletionStatus.RemoteInvalidRequest) =>
        new(AccessOutcome.Done, Aeth.NakInvalidRequest, receiveStatus, null);

    /// <summary>NAK 0x63: this side cannot do what it was asked.</summary>
    public static Verdict Inoperable(WorkCompletionStatus receiveStatus) =>
        new(AccessOutcome.Done, Aeth.NakRemoteOperation, receiveStatus, null);

    /// <summary>What a key led to refuses.</summary>
    public static Verdict Refused(AccessOutcome outcome, MemoryRegion? region) => outcome == AccessOutcome.Misaligned
        ? Invalid() // R9: the address may be a multiple of eight, and the memory behind it not
        : new(outcome, 0, WorkCompletionStatus.LocalAccessError, region);
}
