using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Broker;

/// <summary>
/// The buffers that the commands of a ring may name, and their copies by one GPU. An attached buffer is held by the
/// engine as by any dynamic importer: a revoke cancels its copies, and later ones end with ENODEV. The connection's
/// thread attaches and detaches, the ring's submits; both take the host lock themselves.
/// </summary>
internal sealed class RingCopies(BrokerSession session, GpuHandle gpu, RingFences fences) : IDisposable
{
    /// <summary>Buffers in the table.</summary>
    public const int SlotsMax = 64;

    // A move may begin between the wait for the last one and the lock.
    private const int MapTriesMax = 100;

    private readonly HostContext _context = session.Host.Context;
    private readonly CopyUser?[] _users = new CopyUser?[SlotsMax]; // host lock
    private readonly BrokerBuffer?[] _buffers = new BrokerBuffer?[SlotsMax]; // of those, held; host lock
    private readonly ManualResetEventSlim _locked = new(); // the ring's thread waits for it
    private readonly ManualResetEventSlim _idle = new(initialState: true);
    private int _running;

    /// <summary>Puts a buffer into the table.</summary>
    /// <returns>By which number commands name it.</returns>
    /// <exception cref="WayleaveException">EMFILE: the table is full. ENODEV: it was taken back.</exception>
    public uint Attach(BrokerBuffer buffer)
    {
        string operation = $"attach {buffer.Shared.Name} to a ring";
        using (_context.Enter())
        {
            int slot = Array.IndexOf(_users, null);
            if (slot < 0)
            {
                throw new WayleaveException(Errno.EMFILE, operation, $"the ring has {SlotsMax} buffers already");
            }

            Errno errno = buffer.Shared.IsRevoked
                ? Errno.ENODEV
                : CopyUser.TryCreate(gpu.Device, buffer.Shared, out _users[slot]);
            if (errno != Errno.Success)
            {
                throw new WayleaveException(errno, operation, ErrnoMap.Describe(errno));
            }

            session.Store.Buffers.HoldLocked(buffer);
            _buffers[slot] = buffer;
            return (uint)slot;
        }
    }

    /// <summary>Takes a buffer out of the table.</summary>
    /// <exception cref="WayleaveException">EBADF: none is there. EBUSY: copies of it are under way.</exception>
    public void Detach(uint slot)
    {
        CopyUser user;
        BrokerBuffer buffer;
        using (_context.Enter())
        {
            user = Find(slot)
                ?? throw new WayleaveException(Errno.EBADF, "detach from a ring", $"nothing is in slot {slot}");
            if (user.Outstanding > 0)
            {
                throw new WayleaveException(
                    Errno.EBUSY, "detach from a ring", $"{user.Outstanding} copies are under way: wait for them");
            }

            buffer = _buffers[slot]!;
            (_users[slot], _buffers[slot]) = (null, null);
        }

        DetachAsync(user, buffer).GetAwaiter().GetResult();
    }

    /// <summary>The host begins nothing new.</summary>
    public bool IsDraining => session.Store.IsDraining;

    /// <summary>
    /// Gives a copy to the engine, behind what the reservations of both buffers say that it must not overtake. Waits
    /// for those reservations and for moves; for no job.
    /// </summary>
    /// <param name="command">Any.</param>
    /// <param name="ended">After success: called once at its end, on any thread, without the host lock.</param>
    /// <returns>
    /// EBADF: no such buffer. EINVAL: a range. ENODEV: a buffer was taken back. EAGAIN: the engine's ring is full.
    /// EBUSY.
    /// </returns>
    public Errno Submit(in RingCommand command, Action<Errno> ended)
    {
        for (int tries = 0; tries < MapTriesMax; tries++)
        {
            CopyUser? source;
            CopyUser? target;
            LockOperation locks;
            using (_context.Enter())
            {
                (source, target) = (Find(command.Source), Find(command.Target));
                if (source is null || target is null)
                {
                    return Errno.EBADF;
                }

                _locked.Reset();
                Reservation[] reservations = ReferenceEquals(source, target)
                    ? [source.Buffer.Reservation]
                    : [source.Buffer.Reservation, target.Buffer.Reservation];
                locks = LockOperation.Start(_context, new AcquireTicket(_context, "ring"), reservations, fenceSlots: 1);
                if (!locks.TryAddCompletion(_locked.Set))
                {
                    _locked.Set();
                }
            }

            _locked.Wait();
            if (locks.Errno != Errno.Success)
            {
                return locks.Errno;
            }

            Errno errno = SubmitLocked(command, source, target, locks, ended, out bool isMapped);
            if (isMapped || errno != Errno.EAGAIN)
            {
                return errno;
            }

            source.Buffer.Reservation.WaitAsync(_context, ReservationUsage.Kernel).GetAwaiter().GetResult();
            target.Buffer.Reservation.WaitAsync(_context, ReservationUsage.Kernel).GetAwaiter().GetResult();
        }

        return Errno.EBUSY;
    }

    /// <summary>
    /// Waits for the copies that are under way, and lets go of all buffers. The ring's thread has ended.
    /// </summary>
    public void Dispose()
    {
        while (Volatile.Read(ref _running) > 0)
        {
            _idle.Wait(TimeSpan.FromMilliseconds(100)); // again: a copy of one may have begun after another's end
        }

        for (uint slot = 0; slot < SlotsMax; slot++)
        {
            CopyUser? user;
            BrokerBuffer? buffer;
            using (_context.Enter())
            {
                (user, buffer) = (Find(slot), _buffers[slot]);
                (_users[slot], _buffers[slot]) = (null, null);
            }

            if (user is not null)
            {
                DetachAsync(user, buffer!).GetAwaiter().GetResult();
            }
        }

        using (_context.Enter())
        {
            session.Program.Ledger.Give(BrokerAccount.Queues);
            session.Store.Programs.ForgetLocked(session.Program);
        }

        _locked.Dispose();
        _idle.Dispose();
    }

    private Errno SubmitLocked(
        in RingCommand command,
        CopyUser source,
        CopyUser target,
        LockOperation locks,
        Action<Errno> ended,
        out bool isMapped)
    {
        using (_context.Enter())
        {
            // The table may have changed while the reservations were waited for.
            if (!ReferenceEquals(source, Find(command.Source)) || !ReferenceEquals(target, Find(command.Target)))
            {
                locks.UnlockAll();
                isMapped = false;
                return Errno.EBADF;
            }

            Errno errno = source.TryMapLocked(locks.Ticket);
            errno = errno == Errno.Success ? target.TryMapLocked(locks.Ticket) : errno;
            isMapped = errno == Errno.Success;
            if (!isMapped)
            {
                locks.UnlockAll();
                return errno;
            }

            List<Fence> waits =
            [
                .. source.Buffer.Reservation.GetPendingFences(ReservationUsages.ForAccess(false)),
                .. target.Buffer.Reservation.GetPendingFences(ReservationUsages.ForAccess(true)),
            ];
            errno = CopyUser.TryCopyLocked(
                locks.Ticket,
                source,
                command.SourceOffset,
                target,
                command.TargetOffset,
                command.Length,
                out Fence? fence,
                waits);
            locks.UnlockAll();
            if (errno == Errno.Success)
            {
                _idle.Reset();
                Interlocked.Increment(ref _running);
                session.Store.CountRingCopy(1);
                ulong tag = command.Tag;
                fences.AddLocked(tag, fence!);
                if (fence!.TryAddEndCallback(f => HandleEnded(tag, f, ended)) != Errno.Success)
                {
                    _context.Defer(() => HandleEnded(tag, fence, ended));
                }
            }

            return errno;
        }
    }

    private CopyUser? Find(uint slot) => slot < SlotsMax ? _users[slot] : null;

    // The last copy that ends lets Dispose go on. The engine is done with the buffers before it says so.
    private void HandleEnded(ulong tag, Fence fence, Action<Errno> ended)
    {
        fences.Remove(tag, fence);
        ended(fence.Error);
        session.Store.CountRingCopy(-1);
        if (Interlocked.Decrement(ref _running) == 0)
        {
            _idle.Set();
        }
    }

    private async Task DetachAsync(CopyUser user, BrokerBuffer buffer)
    {
        AcquireTicket ticket;
        using (_context.Enter())
        {
            ticket = new AcquireTicket(_context, $"release of {user.Name}");
        }

        Reservation reservation = user.Buffer.Reservation;
        await reservation.LockAsync(_context, ticket).ConfigureAwait(false);
        using (_context.Enter())
        {
            user.DetachLocked(ticket);
            reservation.Unlock(ticket);
            session.Store.Buffers.DropLocked(buffer);
        }
    }
}
