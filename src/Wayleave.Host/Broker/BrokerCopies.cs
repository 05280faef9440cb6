using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Broker;

/// <summary>A copy that a program asks for.</summary>
/// <param name="Source">Read; may be of another device.</param>
/// <param name="SourceOffset">In bytes.</param>
/// <param name="Target">Written; may be the source.</param>
/// <param name="TargetOffset">In bytes.</param>
/// <param name="LengthBytes">Positive.</param>
internal sealed record BrokerCopy(
    BrokerBuffer Source, ulong SourceOffset, BrokerBuffer Target, ulong TargetOffset, ulong LengthBytes);

// Each copy attaches the engine to both buffers and lets go of them at its end: so a copy that waits for a fence stands
// in nobody's way, and the buffers live until it has ended, whoever closes them meanwhile.

/// <summary>
/// Copies by the engines of GPUs between buffers that programs share. Members take the host lock themselves and hold
/// none while they wait.
/// </summary>
internal sealed class BrokerCopies(HostContext context, BrokerBuffers buffers, BrokerPrograms programs)
{
    // A move may begin between the wait for the last one and the lock.
    private const int MapTriesMax = 100;

    /// <summary>
    /// Puts a copy into the ring of a GPU's copy engine. It starts when the fences that it is given have signalled, and
    /// those in the reservations of both buffers that it must not overtake.
    /// </summary>
    /// <returns>
    /// Signals at the end; ECANCELED when a buffer was taken back under it, EFAULT when an address answered nothing.
    /// </returns>
    /// <exception cref="WayleaveException">
    /// EINVAL: a range is not within its buffer, or a fence is a program's own. ENODEV: a buffer was taken back.
    /// EAGAIN: the ring is full. EDQUOT. Or why the engine does not reach the memory.
    /// </exception>
    public async Task<Fence> SubmitAsync(
        BrokerProgram program, GpuHandle gpu, BrokerCopy copy, IReadOnlyList<Fence> waits)
    {
        string operation = $"copy {copy.Source.Shared.Name} to {copy.Target.Shared.Name} by {gpu.Name}";
        using IDisposable use = gpu.Presence.Use(operation);
        (CopyUser source, CopyUser target) = await AttachAsync(program, gpu, copy, waits, operation)
            .ConfigureAwait(false);
        try
        {
            Fence fence = await SubmitAsync(copy, source, target, waits, operation).ConfigureAwait(false);
            using (context.Enter())
            {
                if (fence.TryAddEndCallback(_ => LetGo()) == Errno.Success)
                {
                    return fence;
                }
            }

            LetGo();
            return fence;
        }
        catch
        {
            LetGo();
            throw;
        }

        void LetGo() => _ = LetGoAsync(program, copy, source, target);
    }

    // From here on the copy is on the account of the program, and keeps both buffers.
    private async Task<(CopyUser Source, CopyUser Target)> AttachAsync(
        BrokerProgram program, GpuHandle gpu, BrokerCopy copy, IReadOnlyList<Fence> waits, string operation)
    {
        CopyUser? source;
        CopyUser? target;
        Errno errno;
        using (context.Enter())
        {
            if (waits.FirstOrDefault(f => f.IsUserControlled) is { } own)
            {
                throw new WayleaveException(
                    Errno.EINVAL, operation, $"{own} is signalled by a program, perhaps never: no job may wait for it");
            }

            program.Ledger.Take(BrokerAccount.Jobs, operation);
            errno = CopyUser.TryCreate(gpu.Device, copy.Source.Shared, out source);
            target = source;
            if (errno == Errno.Success && !ReferenceEquals(copy.Source, copy.Target))
            {
                errno = CopyUser.TryCreate(gpu.Device, copy.Target.Shared, out target);
            }

            if (errno == Errno.Success)
            {
                buffers.HoldLocked(copy.Source);
                buffers.HoldLocked(copy.Target);
                return (source!, target!);
            }

            program.Ledger.Give(BrokerAccount.Jobs);
        }

        if (source is not null)
        {
            await DetachAsync(source).ConfigureAwait(false);
        }

        throw Refused(errno, operation);
    }

    private async Task<Fence> SubmitAsync(
        BrokerCopy copy, CopyUser source, CopyUser target, IReadOnlyList<Fence> waits, string operation)
    {
        for (int tries = 0; tries < MapTriesMax; tries++)
        {
            LockOperation locks = await LockAsync(copy, operation).ConfigureAwait(false);
            using (context.Enter())
            {
                Errno errno = source.TryMapLocked(locks.Ticket);
                errno = errno == Errno.Success ? target.TryMapLocked(locks.Ticket) : errno;
                bool isMapped = errno == Errno.Success;
                Fence? fence = null;
                if (isMapped)
                {
                    List<Fence> all = [.. waits.Where(f => !f.HasEnded)];
                    all.AddRange(copy.Source.Shared.Reservation.GetPendingFences(ReservationUsages.ForAccess(false)));
                    all.AddRange(copy.Target.Shared.Reservation.GetPendingFences(ReservationUsages.ForAccess(true)));
                    errno = CopyUser.TryCopyLocked(
                        locks.Ticket,
                        source,
                        copy.SourceOffset,
                        target,
                        copy.TargetOffset,
                        copy.LengthBytes,
                        out fence,
                        all);
                }

                locks.UnlockAll();
                if (isMapped || errno != Errno.EAGAIN)
                {
                    return fence ?? throw Refused(errno, operation);
                }
            }

            await WaitForMovesAsync(copy).ConfigureAwait(false);
        }

        throw new WayleaveException(Errno.EBUSY, operation, "its memory is moved again and again");
    }

    private async Task WaitForMovesAsync(BrokerCopy copy)
    {
        foreach (BrokerBuffer buffer in new[] { copy.Source, copy.Target })
        {
            await buffer.Shared.Reservation.WaitAsync(context, ReservationUsage.Kernel).ConfigureAwait(false);
        }
    }

    private async Task<LockOperation> LockAsync(BrokerCopy copy, string operation)
    {
        TaskCompletionSource locked = new(TaskCreationOptions.RunContinuationsAsynchronously);
        LockOperation locks;
        using (context.Enter())
        {
            Reservation[] reservations = ReferenceEquals(copy.Source, copy.Target)
                ? [copy.Source.Shared.Reservation]
                : [copy.Source.Shared.Reservation, copy.Target.Shared.Reservation];
            locks = LockOperation.Start(context, new AcquireTicket(context, operation), reservations, fenceSlots: 1);
            if (!locks.TryAddCompletion(locked.SetResult))
            {
                locked.SetResult();
            }
        }

        await locked.Task.ConfigureAwait(false);
        return locks.Errno == Errno.Success ? locks : throw Refused(locks.Errno, operation);
    }

    // On whatever thread ended the copy; a failure here is a bug, and must not end that thread.
    private async Task LetGoAsync(BrokerProgram program, BrokerCopy copy, CopyUser source, CopyUser target)
    {
        try
        {
            await DetachAsync(source).ConfigureAwait(false);
            if (!ReferenceEquals(source, target))
            {
                await DetachAsync(target).ConfigureAwait(false);
            }
        }
        catch (WayleaveException e)
        {
            context.Trace("broker.copy_not_detached", e.Message);
        }

        using (context.Enter())
        {
            buffers.DropLocked(copy.Source);
            buffers.DropLocked(copy.Target);
            program.Ledger.Give(BrokerAccount.Jobs);
            programs.ForgetLocked(program);
        }
    }

    private async Task DetachAsync(CopyUser user)
    {
        AcquireTicket ticket;
        using (context.Enter())
        {
            ticket = new AcquireTicket(context, $"release of {user.Name}");
        }

        Reservation reservation = user.Buffer.Reservation;
        await reservation.LockAsync(context, ticket).ConfigureAwait(false);
        using (context.Enter())
        {
            user.DetachLocked(ticket);
            reservation.Unlock(ticket);
        }
    }

    private static WayleaveException Refused(Errno errno, string operation) => new(errno, operation, errno switch
    {
        Errno.EINVAL => "a range is not within its buffer",
        Errno.ENODEV => "a buffer was taken back, or the engine is gone",
        Errno.EAGAIN => "the ring of the engine is full: wait for a copy",
        Errno.EREMOTEIO or Errno.EBUSY => "the engine has no way to a buffer's memory",
        _ => ErrnoMap.Describe(errno),
    });
}
