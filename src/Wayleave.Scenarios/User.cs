using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// A device that uses the lent buffer: map, wait for the owner's copy, enter the gate, write, leave; map again when it
/// was told to stop; end when the buffer is gone for good.
/// </summary>
internal sealed class User(World world, SimulatedImporter importer, int offset)
{
    private LockWait? _wait;
    private Translation? _inside;
    private byte _written; // the last value that reached the buffer

    public string Name => importer.Name;

    public bool IsInside => _inside is not null;

    /// <summary>Whether the owner took the buffer back.</summary>
    public bool IsCutOff { get; private set; }

    /// <summary>
    /// Writes 1, 2, ... <paramref name="rounds"/> to its byte, each once, whatever is moved underneath.
    /// </summary>
    /// <param name="rounds">How many writes.</param>
    /// <param name="detaches">Whether it lets go of the buffer at the end, as a deregistration does.</param>
    public IEnumerable<Step> Write(int rounds, bool detaches = false)
    {
        while (_written < rounds && !IsCutOff)
        {
            if (importer.Current is null)
            {
                AcquireTicket ticket = Lock();
                yield return new("map", HasLock);
                Map(ticket);
                yield return new("wait for the copy", () => !MustWait());
                Publish();
                continue;
            }

            yield return "enter";
            if (importer.Current is not { } translation || !translation.Gate.TryEnter())
            {
                continue; // told to stop
            }

            _inside = translation;
            yield return "write";
            Access((byte)(_written + 1));
            yield return "leave";
            _inside = null;
            translation.Gate.Exit();
        }

        if (detaches)
        {
            yield return "lock to detach";
            AcquireTicket ticket = Lock();
            yield return new("detach", HasLock);
            using (world.Host.Enter())
            {
                importer.DetachLocked(ticket);
                world.Lent.Shared.Reservation.Unlock(ticket);
            }
        }
    }

    /// <summary>
    /// What was written is there: no move has lost it. Nobody can know once the buffer was taken back.
    /// </summary>
    public void CheckEnd()
    {
        byte found = world.Peek(world.Lent, offset);
        if (!world.Lent.IsFreed && found != _written)
        {
            throw new ViolationException($"{Name} wrote {_written}, and the buffer holds {found}");
        }
    }

    public void AddTo(ref StateHash hash)
    {
        hash.Add(_written);
        hash.Add((IsCutOff ? 1UL : 0) + (_wait is null ? 0UL : _wait.IsCompleted ? 2UL : 4UL));
        hash.Add(_wait is { IsCompleted: false } waiting ? waiting.Ticket.Stamp : 0); // its place in the queue
        hash.Add(_inside is null ? 0 : _inside.Addresses.Entries[0].Start.Value + (_inside.Gate.IsClosed ? 1UL : 0));
        importer.AddTo(ref hash);
    }

    private AcquireTicket Lock()
    {
        using (world.Host.Enter())
        {
            AcquireTicket ticket = new(world.Host, Name);
            _wait = world.Lent.Shared.Reservation.TryLock(ticket).Wait;
            return ticket;
        }
    }

    private bool HasLock() => _wait is null or { IsCompleted: true };

    private void Map(AcquireTicket ticket)
    {
        using (world.Host.Enter())
        {
            Errno errno = importer.MapLocked(ticket);
            world.Lent.Shared.Reservation.Unlock(ticket);
            IsCutOff = errno == Errno.ENODEV;
            World.Require(Errno.Success, IsCutOff ? Errno.Success : errno);
        }
    }

    private bool MustWait()
    {
        using (world.Host.Enter())
        {
            return importer.MustWait;
        }
    }

    private void Publish()
    {
        using (world.Host.Enter())
        {
            importer.TryPublish();
        }
    }

    private void Access(byte value)
    {
        _inside!.Addresses.TryLocate((ulong)offset, out DeviceAddress address, out _);
        world.RequireLent(Name, address);
        World.Require(Errno.Success, importer.Port.TryWrite(address, 1, out Span<byte> bytes));
        if (bytes[0] != _written)
        {
            throw new ViolationException($"{Name} wrote {_written} and finds {bytes[0]}");
        }

        bytes[0] = value;
        _written = value;
    }
}
