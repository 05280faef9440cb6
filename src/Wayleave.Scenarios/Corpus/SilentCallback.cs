using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// Report: https://lore.kernel.org/all/20260112170434.GH745888@ziepe.ca/ (Re: [PATCH 0/4] dma-buf: add revoke
// mechanism to invalidate shared buffers). Pinned RDMA regions had a callback, because a dynamic attach asked for
// one, and all that ib_umem_dmabuf_unsupported_move_notify() did was to print a warning: an exporter that took
// memory back at such an importer was ignored. The rule that came of it is dma_buf_attach_revocable
// (docs/internals/linux.md 1.4): whether an importer can be made to stop is read off its having a callback, which a
// stub has as well.
//
// Faithful: the importer pins, maps, says at once that it has stopped, and goes on; to the exporter it looks exactly
// like an honest one until the proof is looked at.
// Not faithful: the memory is given away by an owner that asks for it, not by a device that was pulled out or reset.

/// <summary>A pinned importer whose callback does nothing.</summary>
internal static class SilentCallback
{
    public static NamedScenario Scenario { get; } = new(
        "silent-callback",
        "An importer answers the revoke with a word and goes on writing; the memory waits in quarantine until the "
        + "importer has unmapped by itself.",
        c => Build(c, RetirementGrade.Retired),
        [
            new("word-is-enough", "The owner is content with the importer's word.",
                c => Build(c, RetirementGrade.Acknowledged)),
        ])
    {
        Reports = ["https://lore.kernel.org/all/20260112170434.GH745888@ziepe.ca/"],
        Defence = "a word is the grade Acknowledged; memory needs Retired, which an unmap alone can give",
    };

    private static Scenario Build(Choices choices, RetirementGrade required)
    {
        Lending lending = Lending.Of(choices, StorageKind.Revocable);
        LendingUser nic = lending.AddUser(
            "nic", ImporterKind.PinnedRevocable, offset: 0, new ImporterFaults { ListensToInvalidation = false });
        return lending.ToScenario(
            [nic],
            atEnd: null,
            ("nic", nic.Write(rounds: 2, detaches: true)),
            ("owner", TakeBack(lending, required)));
    }

    private static IEnumerable<Step> TakeBack(Lending lending, RetirementGrade required)
    {
        yield return "revoke";
        RevokeOperation operation;
        using (lending.Host.Enter())
        {
            operation = RevokeOperation.Start(lending.Shared, new RevokePolicy { RequiredGrade = required });
        }

        yield return "time-out";
        using (lending.Host.Enter())
        {
            lending.Clock.AdvanceTo(operation.Deadline);
            operation.HandleTimeout(lending.Clock.Now);
            if (!operation.IsCompleted)
            {
                throw new ViolationException("the time-out left the revoke without an end");
            }

            lending.Story.Say($"{operation.State}, grade {operation.Proof!.Grade}");
        }

        yield return new("the memory may go", () => operation.State == RevokeState.Retired);
        lending.HandOver(0, "the next owner");
    }
}
