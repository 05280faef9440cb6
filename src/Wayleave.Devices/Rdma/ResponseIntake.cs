using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// Where a response goes is for ResponsePlacement; whether it is the next one, what it says of others, and what follows
// is decided here.

/// <summary>
/// What a READ, an atomic, an ATOMIC WRITE or a FLUSH is answered with, packet by packet from
/// <see cref="PacketIntake"/>, and the Middles of a READ together from <see cref="MiddleIntake"/>. Port token held by
/// the caller.
/// </summary>
internal sealed class ResponseIntake(
    QueuePair pair, SendProgress progress, SendCompletions completions, ResponsePlacement placement, GoBackN goBackN)
    : IMiddleTaker
{
    /// <summary>
    /// Takes a response, or finds out that another is lost. Its place follows from its PSN alone, so both forms of a
    /// repetition are taken.
    /// </summary>
    public void Handle(in PacketView packet, TimeSpan now)
    {
        uint psn = packet.Psn;
        if (!progress.IsOnTheWay(psn) || !goBackN.TryAcknowledgeBeforeRead(psn, now))
        {
            return;
        }

        if (!progress.HeadSlot.IsAnswered)
        {
            completions.FailHead(WorkCompletionStatus.BadResponse);
            return;
        }

        if (psn == progress.AckPsn)
        {
            Take(packet, now, freedBytes: 0);
            TakeHeld(now);
        }
        else if (!placement.TryHold(packet))
        {
            HandleGap(psn);
        }
    }

    /// <summary>The next response has that PSN.</summary>
    public uint ExpectedPsn => progress.AckPsn;

    /// <summary>How many Middles of the READ at the head may come before the last packet of its piece.</summary>
    // The answer of a probe is looked at by itself, since the one behind it says more.
    public int MiddlesToCome(Opcode opcode) =>
        pair.State < QueuePairState.ReadyToSend || goBackN.Probe.IsOut
            ? 0
            : Math.Min(progress.MiddlesToCome, placement.CountBeforeHeld);

    /// <inheritdoc/>
    public int PlaceMiddles(ref PacketRun run)
    {
        TimeSpan now = pair.Port.Now;
        WorkCompletionStatus status = placement.PlaceRun(ref run, out MemoryRegion? faulted);
        for (int i = 0; i < run.Placed; i++)
        {
            progress.TakeReadPacket(run.PayloadBytes, endsPiece: false, freedBytes: 0);
        }

        // What one packet brings about besides its bytes, several do no more than once.
        if (run.Placed != 0)
        {
            HandleProgress(now);
        }

        if (faulted is not null || status != WorkCompletionStatus.Success)
        {
            Refuse(status, faulted);
            return run.Placed + 1;
        }

        TakeHeld(now);
        return run.Placed;
    }

    private void TakeHeld(TimeSpan now)
    {
        while (placement.TryTakeHeld(out PacketView held, out int freedBytes))
        {
            Take(held, now, freedBytes);
        }
    }

    // It has the oldest PSN without an answer.
    private void Take(in PacketView packet, TimeSpan now, int freedBytes)
    {
        if (!progress.HeadSlot.IsAnswered)
        {
            completions.FailHead(WorkCompletionStatus.BadResponse);
            return;
        }

        WorkCompletionStatus status = placement.Place(packet, out bool endsPiece, out MemoryRegion? faulted);
        if (faulted is not null || status != WorkCompletionStatus.Success)
        {
            Refuse(status, faulted);
            return;
        }

        if (progress.TakeReadPacket(packet.PayloadBytes, endsPiece, freedBytes))
        {
            completions.CompleteHead(WorkCompletionStatus.Success);
        }

        HandleProgress(now);
    }

    private void HandleProgress(TimeSpan now)
    {
        goBackN.HandleProgress(now);
        pair.Port.Peers.WakeReadWaiters();
    }

    private void Refuse(WorkCompletionStatus status, MemoryRegion? faulted)
    {
        if (faulted is not null)
        {
            // Nothing is kept for later: it is asked for again once the region is mapped (linux.md 5.7).
            RegionFaults faults = pair.Port.RegionFaults;
            faults.Add(faulted, pair);
            goBackN.GoBack();
            faults.Stall(pair);
        }
        else
        {
            completions.FailHead(status);
        }
    }

    // The answer to a later request says that this one was served (implied NAK), one of its own only that one is late.
    private void HandleGap(uint psn)
    {
        if (!progress.IsInHead(psn) || pair.Profile.ReadRestartsAtOnce)
        {
            goBackN.RestartRead();
        }
    }
}
