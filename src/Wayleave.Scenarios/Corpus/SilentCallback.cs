using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// No single report: the rule is that of dma_buf_attach_revocable (semantics of importers, docs/internals/linux.md 1.4).
// Whether an importer can be made to stop is read off its having a callback. An importer may have one that does
// nothing, as a stub that makes an exporter accept it; it pins, maps, says at once that it has stopped, and goes on.
//
// Faithful: to the exporter such an importer looks exactly like an honest one until the proof is looked at.

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
