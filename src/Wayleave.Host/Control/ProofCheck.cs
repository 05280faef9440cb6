using Wayleave.Core.Retirement;

namespace Wayleave.Host.Control;

/// <summary>
/// Whether a proof that somebody else wrote holds: what <see cref="ProofVerifier"/> derives again from the evidence,
/// and what only the document says.
/// </summary>
public static class ProofCheck
{
    // Both times were rounded to the tenths of a microsecond that the clock counts.
    private const double RoundingUs = 0.11;

    /// <summary>What is wrong, one sentence each; empty when the proof holds.</summary>
    public static IReadOnlyList<string> FindProblems(ProofDocument proof)
    {
        ArgumentNullException.ThrowIfNull(proof);
        List<string> problems = [.. ProofVerifier.FindProblems(proof.ToProof())];
        if (proof.Sufficient != (proof.Grade >= proof.RequiredGrade))
        {
            string claim = proof.Sufficient ? "it is said to suffice" : "it is said not to suffice";
            problems.Add($"{claim}, with grade {proof.Grade} where {proof.RequiredGrade} is required");
        }

        double duration = proof.CompletedAtUs - proof.StartedAtUs;
        if (Math.Abs(duration - proof.DurationUs) > RoundingUs)
        {
            problems.Add(FormattableString.Invariant(
                $"it is said to have taken {proof.DurationUs} us; from its start to its end are {duration} us"));
        }

        foreach (ImporterProofDocument importer in proof.Importers)
        {
            // One with a gate unmaps when the last access has left it, and never before.
            if (importer.GateClosedAtUs is not null && importer.UnmappedAtUs < importer.DrainedAtUs)
            {
                problems.Add($"{importer.Importer}: unmapped while somebody was inside its gate");
            }
        }

        return problems;
    }
}
