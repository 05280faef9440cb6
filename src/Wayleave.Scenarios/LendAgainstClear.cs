using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

// The owner of a controller memory buffer lends all of it, takes it back whenever, and lends it again. Clearing runs
// beside, block by block, without the host lock; each borrower finds zeroes, and what it wrote is there until it ends.
//
// Faithful: the pool, the lender, its clearing, the revoke and the importer's map are the shipped ones.
// Not faithful: one actor is whatever thread clears; a block of it is one step.

/// <summary>Memory that is lent before it is clear.</summary>
internal static class LendAgainstClear
{
    private const int Bar = 2;
    private const int Bytes = 2 * (64 << 10); // two blocks of the clearing
    private const byte Old = 0xEE;

    public static NamedScenario Scenario { get; } = new(
        "lend-against-clear",
        "Memory of a drive is lent while it is still being cleared, taken back, also before it is clear, and lent to "
        + "the next; every borrower finds zeroes, and what it wrote stays.",
        c => Build(c, holdsBack: true),
        [
            new("not-held-back", "The memory is there for users before it is clear.", c => Build(c, holdsBack: false)),
        ])
    {
        Defence = "the clearing is a KERNEL fence of the buffer, which users and the revoke wait for",
        Orders = OrderSource.Random, // every order holds as well: 622,100 of them, a minute
    };

    private static Scenario Build(Choices choices, bool holdsBack)
    {
        Story story = new(choices);
        HostContext host = new(new VirtualClock(), choices.IsTold ? story : null);
        PciFabric fabric = new();
        PciFunction drive = new("0000:02:00.0", "nvme0");
        byte[] bytes = new byte[Bytes];
        bytes.AsSpan().Fill(Old); // of whoever had it before
        PeerPool? pool;
        PeerPoolLender lender;
        using (host.Enter())
        {
            PciBar bar = fabric.AddBar(drive, Bar, PciBarKind.Memory, Bytes);
            fabric.AddWindow(bytes, bar, 0);
            World.Require(
                Errno.Success, PeerDevice.TryAddResource(host, fabric.Topology, drive, Bar, 0, 0, out pool));
            lender = new PeerPoolLender(host, fabric, pool!)
            {
                Clearing = new LentClearing(host, fabric) { HoldsBack = holdsBack, WorkAvailable = () => { } },
            };
        }

        Borrower first = new("first", 0x11, uses: 1), second = new("second", 0x22, uses: 2);
        first.Begin(host, fabric, lender);
        bool isOver() => second.HasEnded && lender.Clearing.UnderWay == 0;
        story.Take();
        return new Scenario(
            [
                new Actor("first", first.Use(host)),
                new Actor("owner", LendAgain(host, fabric, lender, pool!, first, second)),
                new Actor("second", second.Use(host)),
                new Actor("clearing", Clear(host, lender, isOver)),
            ],
            Invariant: () => { },
            AtEnd: () =>
            {
                if (host.Checker.Violations is [{ } broken, ..])
                {
                    throw new ViolationException(broken.ToString());
                }

                if (pool!.AvailableBytes != Bytes)
                {
                    throw new ViolationException("a range never came back");
                }
            },
            Narrate: story.Take);
    }

    private static IEnumerable<Step> LendAgain(
        HostContext host, PciFabric fabric, PeerPoolLender lender, PeerPool pool, Borrower first, Borrower second)
    {
        yield return "take it back";
        using (host.Enter())
        {
            lender.TakeBack(first.Buffer!, new RevokePolicy());
        }

        yield return new("it is free", () => Locked(host, () => pool.AvailableBytes == Bytes));
        second.Begin(host, fabric, lender);
        yield return new("it was used", () => second.HasEnded);
        using (host.Enter())
        {
            lender.TakeBack(second.Buffer!, new RevokePolicy());
        }
    }

    private static IEnumerable<Step> Clear(HostContext host, PeerPoolLender lender, Func<bool> isOver)
    {
        while (true)
        {
            yield return new("clear", () => isOver() || HasWork(lender, host));
            if (!lender.Clearing.TryTake(out LentClearing.Work? work))
            {
                yield break;
            }

            Errno errno;
            while (!work!.Step(out errno))
            {
                yield return "clear the next block";
            }

            yield return "it is clear";
            lender.Clearing.End(work, errno);
        }
    }

    private static bool HasWork(PeerPoolLender lender, HostContext host) =>
        Locked(host, () => lender.Clearing.UnderWay > 0);

    private static T Locked<T>(HostContext host, Func<T> look)
    {
        using (host.Enter())
        {
            return look();
        }
    }

    /// <summary>A device that borrows, finds zeroes, writes, and finds that.</summary>
    private sealed class Borrower(string name, byte value, int uses)
    {
        private SimulatedImporter? _importer;
        private bool _hasWritten;

        public SharedBuffer? Buffer { get; private set; }

        public bool HasEnded { get; private set; }

        public void Begin(HostContext host, PciFabric fabric, PeerPoolLender lender)
        {
            using (host.Enter())
            {
                World.Require(Errno.Success, lender.TryLend(name, Bytes, out SharedBuffer? buffer));
                Buffer = buffer;
                _importer = new SimulatedImporter(host, fabric, buffer!, name);
            }
        }

        public IEnumerable<Step> Use(HostContext host)
        {
            yield return new("borrow", () => _importer is not null);
            foreach (Step step in _importer!.Use(uses, Access))
            {
                yield return step;
            }

            HasEnded = true;
        }

        // A word of each block is enough, for a block is cleared in one step.
        private void Access(DeviceAddress start)
        {
            foreach (ulong at in (ulong[])[0, Bytes - 1])
            {
                World.Require(Errno.Success, _importer!.Port.TryWrite(start + at, 1, out Span<byte> found));
                byte expected = _hasWritten ? value : (byte)0;
                if (found[0] != expected)
                {
                    throw new ViolationException($"{name} finds 0x{found[0]:x2} at {at}, and not 0x{expected:x2}");
                }

                found[0] = value;
            }

            _hasWritten = true;
        }
    }
}
