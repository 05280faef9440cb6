using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Devices.Nvme;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Transfers;

/// <summary>
/// Moves a buffer to or from the blocks of a namespace, from the first byte and the first block on, with as many
/// commands as the drive takes. Each is sent with the reservation held for a moment; between two of them a mover or a
/// revoke gets its turn, and waits for the fences of those under way.
/// </summary>
/// <param name="host">Of both.</param>
/// <param name="drive">Ready.</param>
/// <param name="buffer">Whose memory the commands point into.</param>
/// <param name="medium">A namespace of the drive.</param>
/// <param name="opcode">Read, into the buffer, or write, from it.</param>
/// <param name="lengthBytes">Of both; what fills the last block is zero.</param>
internal sealed class DriveMove(
    WayleaveHost host,
    NvmeHandle drive,
    SharedBuffer buffer,
    NvmeNamespace medium,
    NvmeOpcode opcode,
    ulong lengthBytes)
{
    private static readonly TimeSpan s_abortMax = TimeSpan.FromSeconds(2);

    /// <summary>For failures.</summary>
    public required string Operation { get; init; }

    /// <summary>How long no command may end while some are under way.</summary>
    public TimeSpan StallMax { get; init; } = BulkTransfer.DefaultStallMax;

    /// <summary>
    /// Called with the bytes of each command that ended well, or 0, on a thread of the drive as it leaves the host
    /// lock; the last call may come after a move that was given up.
    /// </summary>
    public Action<ulong>? Moved { get; init; }

    /// <summary>Where in the buffer the first byte is; a multiple of the block size.</summary>
    public ulong BufferOffset { get; init; }

    /// <summary>Where in the namespace the first byte is; a multiple of the block size.</summary>
    public ulong MediumOffset { get; init; }

    /// <summary>Moves all of it. When this returns or throws no command is under way.</summary>
    /// <exception cref="WayleaveException">
    /// What the drive or the owner of the memory said. ETIMEDOUT: the medium does not answer.
    /// </exception>
    public async Task RunAsync(CancellationToken cancellation)
    {
        NvmeBufferUser user = Attach();
        Commands commands = new(new SemaphoreSlim(NvmeDriver.CommandsMax));
        bool isDone = false;
        try
        {
            for (ulong offset = 0; offset < lengthBytes && commands.Failure == Errno.Success;)
            {
                await WaitForRoomAsync(commands, cancellation).ConfigureAwait(false);
                ulong bytes = Math.Min(DriveCopy.CommandBytes, lengthBytes - offset);
                (Errno errno, Task again) =
                    await StartAsync(user, offset, bytes, HandleEnded).ConfigureAwait(false);
                if (errno == Errno.Success)
                {
                    offset += bytes;
                    continue;
                }

                commands.HandleEnded(Errno.Success); // it was never sent
                if (errno != Errno.EAGAIN)
                {
                    ThrowIfFailed(errno);
                }

                await again.WaitAsync(cancellation).ConfigureAwait(false);

                void HandleEnded(Errno error)
                {
                    Moved?.Invoke(error == Errno.Success ? bytes : 0);
                    commands.HandleEnded(error);
                }
            }

            for (int i = 0; i < NvmeDriver.CommandsMax; i++)
            {
                await WaitForRoomAsync(commands, cancellation).ConfigureAwait(false);
            }

            isDone = true;
        }
        finally
        {
            if (!isDone)
            {
                await StopAsync(user).ConfigureAwait(false);
            }

            await DetachAsync(user).ConfigureAwait(false);
        }

        ThrowIfFailed(commands.Failure);
    }

    private void ThrowIfFailed(Errno errno)
    {
        errno.ThrowIfFailed(Operation, "start again");
    }

    private async Task WaitForRoomAsync(Commands commands, CancellationToken cancellation)
    {
        // A command that ends gives its room back, so that to wait for room is to wait for an end.
        if (!await commands.WaitAsync(StallMax, cancellation).ConfigureAwait(false))
        {
            throw new WayleaveException(
                Errno.ETIMEDOUT,
                Operation,
                $"no command of {drive.Name} ended for {StallMax.TotalSeconds:0.###} s; the file does not answer",
                "see whether its file system hangs, or wait longer: --stall-timeout");
        }
    }

    // As nvme_timeout(): an abort first, and a reset, which ends what others do too, only if that has not helped.
    private async Task StopAsync(NvmeBufferUser user)
    {
        using (host.Context.Enter())
        {
            user.Abort();
        }

        if (await TryWaitIdleAsync(user, s_abortMax).ConfigureAwait(false))
        {
            return;
        }

        host.Context.Trace("nvme.reset", drive.Name, user.Outstanding);
        await drive.ResetAsync().ConfigureAwait(false);
    }

    // False when the time is over, or the drive's thread has died: it ends nothing any more.
    private async Task<bool> TryWaitIdleAsync(NvmeBufferUser user, TimeSpan limit)
    {
        TaskCompletionSource idle = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using (host.Context.Enter())
        {
            if (!user.TryObserveIdle(idle.SetResult))
            {
                return true;
            }
        }

        using CancellationTokenSource over = new();
        Task[] ends = [idle.Task, drive.WhenFailed, Task.Delay(limit, over.Token)];
        bool isIdle = await Task.WhenAny(ends).ConfigureAwait(false) == idle.Task;
        await over.CancelAsync().ConfigureAwait(false);
        return isIdle;
    }

    private NvmeBufferUser Attach()
    {
        using (host.Context.Enter())
        {
            Errno errno = NvmeBufferUser.TryCreate(
                host.Context, drive.Driver, drive.Function, buffer, out NvmeBufferUser? user);
            ThrowIfFailed(errno);
            return user!;
        }
    }

    private async Task<(Errno Errno, Task Again)> StartAsync(
        NvmeBufferUser user, ulong offset, ulong bytes, Action<Errno> ended)
    {
        AcquireTicket ticket;
        using (host.Context.Enter())
        {
            ticket = new AcquireTicket(host.Context, $"{drive.Name} for {buffer.Name}");
        }

        await buffer.Reservation.LockAsync(host.Context, ticket).ConfigureAwait(false);
        try
        {
            await buffer.Reservation.WaitAsync(host.Context, ReservationUsage.Kernel, ticket).ConfigureAwait(false);
            using (host.Context.Enter())
            {
                ulong lba = (MediumOffset + offset) >> medium.BlockShift;
                int blocks = (int)((bytes + (ulong)medium.BlockBytes - 1) >> medium.BlockShift);
                Errno errno = user.TryStart(
                    ticket, opcode, medium, lba, blocks, BufferOffset + offset, out Fence? fence);
                if (errno == Errno.Success && fence!.TryAddCallback(f => ended(f.Error)) != Errno.Success)
                {
                    throw new InvalidOperationException("a command ended before the host lock was given back");
                }

                return (errno, errno == Errno.EAGAIN ? WhenWorthAnotherTry(fence) : Task.CompletedTask);
            }
        }
        finally
        {
            using (host.Context.Enter())
            {
                buffer.Reservation.Unlock(ticket);
            }
        }
    }

    // Host lock held. Another copy has the slots, or the memory is on the move.
    private Task WhenWorthAnotherTry(Fence? fence)
    {
        TaskCompletionSource changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
        if (fence is null)
        {
            drive.Driver.ObserveRoom(changed.SetResult);
        }
        else if (fence.TryAddCallback(_ => changed.SetResult()) != Errno.Success)
        {
            changed.SetResult();
        }

        return changed.Task;
    }

    // The hold of a drive whose thread died stays, and so does the memory, in quarantine.
    private async Task DetachAsync(NvmeBufferUser user)
    {
        if (!await TryWaitIdleAsync(user, Timeout.InfiniteTimeSpan).ConfigureAwait(false))
        {
            return;
        }

        AcquireTicket ticket;
        using (host.Context.Enter())
        {
            ticket = new AcquireTicket(host.Context, $"{drive.Name} lets go of {buffer.Name}");
        }

        await buffer.Reservation.LockAsync(host.Context, ticket).ConfigureAwait(false);
        using (host.Context.Enter())
        {
            user.DetachLocked(ticket); // nobody but this move sends commands of the user
            buffer.Reservation.Unlock(ticket);
        }
    }

    // The semaphore is not disposed: a command's fence has signalled before its callback runs, as the host lock is
    // left, so that a move that is given up can be over before the last callback, on the drive's thread, gives the room
    // back. One whose wait handle nobody asks for has nothing to dispose of.

    /// <summary>Commands under way, and the first failure among them.</summary>
    /// <param name="room">For as many as the drive takes.</param>
    private sealed class Commands(SemaphoreSlim room)
    {
        private int _failure;

        public Errno Failure => (Errno)Volatile.Read(ref _failure);

        public Task<bool> WaitAsync(TimeSpan limit, CancellationToken cancellation) =>
            room.WaitAsync(limit, cancellation);

        public void HandleEnded(Errno errno)
        {
            Interlocked.CompareExchange(ref _failure, (int)errno, (int)Errno.Success);
            room.Release();
        }
    }
}
