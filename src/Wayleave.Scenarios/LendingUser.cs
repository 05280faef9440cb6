using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// A device that writes to the buffer of a <see cref="Lending"/>: map, enter the gate, write, leave; map again when it
/// was told to stop.
/// </summary>
internal sealed class LendingUser(Lending lending, Importer importer, int offset)
{
    private LockWait? _wait;
    private Translation? _inside;
    private byte _written;

    public Importer Importer => importer;

    /// <summary>The last value that reached the buffer.</summary>
    public byte Written => _written;

    /// <summary>Whether it is between entering and leaving.</summary>
    public bool IsInside => _inside is not null;

    /// <summary>Whether the owner took the buffer back.</summary>
    public bool IsCutOff { get; private set; }

    /// <summary>Writes 1, 2, ... to its byte.</summary>
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
                continue;
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
            AcquireTicket ticket = Lock();
            yield return new("detach", HasLock);
            using (lending.Host.Enter())
            {
                importer.DetachLocked(ticket);
                lending.Shared.Reservation.Unlock(ticket);
            }
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
        using (lending.Host.Enter())
        {
            AcquireTicket ticket = new(lending.Host, importer.Name);
            _wait = lending.Shared.Reservation.TryLock(ticket).Wait;
            return ticket;
        }
    }

    private bool HasLock() => _wait is null or { IsCompleted: true };

    private void Map(AcquireTicket ticket)
    {
        using (lending.Host.Enter())
        {
            Errno errno = importer.MapLocked(ticket);
            lending.Shared.Reservation.Unlock(ticket);
            IsCutOff = errno == Errno.ENODEV;
            World.Require(Errno.Success, IsCutOff ? Errno.Success : errno);
            lending.Story.Say(IsCutOff ? "refused: ENODEV" : $"mapped in place {lending.Place}");
        }
    }

    private bool MustWait()
    {
        using (lending.Host.Enter())
        {
            return importer.MustWait;
        }
    }

    private void Publish()
    {
        using (lending.Host.Enter())
        {
            importer.TryPublish();
        }
    }

    private void Access(byte value)
    {
        _inside!.Addresses.TryLocate((ulong)offset, out DeviceAddress address, out _);
        lending.RequireLent(importer.Name, address);
        World.Require(Errno.Success, importer.Port.TryWrite(address, 1, out Span<byte> bytes));
        bytes[0] = value;
        _written = value;
        if (lending.Story.IsTold)
        {
            lending.Story.Say($"writes {value} at {address}");
        }
    }
}
