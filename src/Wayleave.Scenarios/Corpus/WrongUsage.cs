using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// Report: http://mail.spinics.net/lists/dri-devel/msg323906.html, the cover letter of the rework that made enum
// dma_resv_usage (docs/internals/linux.md 2.1): until then every driver had to say what memory management must wait
// for, and one that got it wrong led to corruption of freed memory. What importers still do to a buffer stands in
// its reservation as BOOKKEEP, which implicit synchronisation does not see. A mover that asks for WRITE, as a
// renderer does, finds nothing to wait for, and copies while an importer still writes to the old place.
//
// Faithful: invalidation, the fence of the drain, its class and the query are those of the shipped core; the mover is
// that of SimulatedOwner, because the GPU's cannot be told to ask for the wrong class.
// Not faithful: the report names no driver and no trace; this is the shortest mistake of the kind it describes.

/// <summary>A mover waits for WRITE where it must wait for BOOKKEEP.</summary>
internal static class WrongUsage
{
    public static NamedScenario Scenario { get; } = new(
        "mover-waits-for-write",
        "A buffer moves while an importer writes to it; the copy starts when the importer has left the old place, "
        + "and no write is lost.",
        c => Build(c, ReservationUsage.Bookkeep),
        [
            new("waits-for-write", "The copy waits for the fences of implicit synchronisation only.",
                c => Build(c, ReservationUsage.Write)),
        ])
    {
        Reports = ["http://mail.spinics.net/lists/dri-devel/msg323906.html"],
        Defence = "memory management asks for BOOKKEEP, which is everything",
    };

    private static Scenario Build(Choices choices, ReservationUsage usage)
    {
        Lending lending = Lending.Of(choices, StorageKind.Movable);
        LendingUser nic = lending.AddUser("nic", ImporterKind.Dynamic, offset: 0);
        return lending.ToScenario(
            [nic],
            atEnd: () =>
            {
                byte found = lending.BytesOf(1)[0];
                if (found != nic.Written)
                {
                    throw new ViolationException($"nic wrote {nic.Written}, and the buffer holds {found}");
                }
            },
            ("nic", nic.Write(rounds: 2)),
            ("mover", lending.Move(usage)));
    }
}
