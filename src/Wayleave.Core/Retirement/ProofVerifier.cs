namespace Wayleave.Core.Retirement;

/// <summary>
/// Checks a proof that somebody else wrote: that its grades follow from the evidence in it, that its times can be true,
/// and that its conclusion follows from its grades. Who signs it, and whether its clock was right, it cannot know.
/// Pure.
/// </summary>
public static class ProofVerifier
{
    /// <summary>What is wrong with <paramref name="proof"/>, one sentence each; empty when it holds.</summary>
    public static IReadOnlyList<string> FindProblems(RetirementProof proof)
    {
        List<string> problems = [];
        if (proof.Version != RetirementProof.SchemaVersion)
        {
            return [$"version {proof.Version} is not {RetirementProof.SchemaVersion}, and nothing else was looked at"];
        }

        CheckGrades(proof, problems);
        CheckConclusion(proof, problems);
        CheckTimes(proof, problems);
        foreach (ImporterProof importer in proof.Importers)
        {
            CheckImporter(proof, importer, problems);
        }

        foreach (FenceProof fence in proof.Fences)
        {
            CheckFence(proof, fence, problems);
        }

        return problems;
    }

    private static void CheckGrades(RetirementProof proof, List<string> problems)
    {
        RetirementGrade grade = proof.InvalidatedAt is null ? RetirementGrade.None : RetirementGrade.Retired;
        foreach (ImporterProof importer in proof.Importers)
        {
            RetirementGrade own = proof.InvalidatedAt is null ? RetirementGrade.None : GradeOf(importer);
            if (importer.Grade != own)
            {
                problems.Add($"{importer.Importer} is graded {importer.Grade}; its evidence amounts to {own}");
            }

            grade = own < grade ? own : grade;
        }

        grade = GradeRules.WithFences(grade, proof.Fences.All(f => f.HasEnded));
        if (proof.Grade != grade)
        {
            problems.Add($"the grade is {proof.Grade}; the evidence amounts to {grade}");
        }
    }

    private static void CheckConclusion(RetirementProof proof, List<string> problems)
    {
        if (proof.RequiredGrade == RetirementGrade.None)
        {
            problems.Add("it requires no grade: memory would be given out on time alone");
        }

        if (proof.IsSufficient != (proof.Cause == QuarantineCause.None))
        {
            string suffices = proof.IsSufficient ? "suffices" : "does not suffice";
            problems.Add($"the grade {suffices}, yet the cause is {proof.Cause}");
        }

        if (proof.Cause == QuarantineCause.ReservationHeld && proof.InvalidatedAt is not null)
        {
            problems.Add("somebody is said to have kept the reservation, yet the importers were told");
        }

        if (proof.Cause == QuarantineCause.WorkPending && proof.Fences.All(f => f.SignaledAt is not null))
        {
            problems.Add("work is said to be pending, yet every fence has signalled");
        }
    }

    private static void CheckTimes(RetirementProof proof, List<string> problems)
    {
        Order(problems, "the revoke", ("it started", proof.StartedAt), ("importers were told", proof.InvalidatedAt),
            ("fences had signalled", proof.FencesSignaledAt), ("it ended", proof.CompletedAt));
        if (proof.Deadline < proof.StartedAt)
        {
            problems.Add($"the deadline {proof.Deadline} is before the start {proof.StartedAt}");
        }

        if (proof.FencesSignaledAt is not null && proof.InvalidatedAt is null)
        {
            problems.Add("fences were waited for before anybody was told to stop");
        }
    }

    private static void CheckImporter(RetirementProof proof, ImporterProof importer, List<string> problems)
    {
        string name = importer.Importer;
        if (importer.KeyDeadAt is not null && importer.Key is null)
        {
            problems.Add($"{name}: a key died, and it is not said which");
        }

        if (importer.InsideAtClose < 0 || (importer.InsideAtClose > 0 && importer.GateClosedAt is null))
        {
            problems.Add($"{name}: {importer.InsideAtClose} users inside a gate that was not closed");
        }

        if ((importer.StoppedAt is null) != (importer.StoppedBy is null)
            || (importer.StoppedAt is null) != (importer.Witness is null))
        {
            problems.Add($"{name}: that it is gone needs a cause, a time and a witness");
        }

        if ((importer.DrainFence is null) != (importer.Drain == DrainState.None))
        {
            problems.Add($"{name}: its drain is {importer.Drain}, and its fence {importer.DrainFence ?? "is missing"}");
        }

        if (!importer.WasMapped && importer.UnmappedAt is not null)
        {
            problems.Add($"{name}: unmapped, and never mapped");
        }

        Order(problems, name, ("the gate closed", importer.GateClosedAt), ("it had drained", importer.DrainedAt),
            ("the revoke ended", proof.CompletedAt));
        Order(problems, name, ("it acknowledged", importer.AcknowledgedAt), ("the revoke ended", proof.CompletedAt));
        Order(problems, name, ("the key died", importer.KeyDeadAt), ("the revoke ended", proof.CompletedAt));
        Order(problems, name, ("it unmapped", importer.UnmappedAt), ("the revoke ended", proof.CompletedAt));
        Order(problems, name, ("it was gone", importer.StoppedAt), ("the revoke ended", proof.CompletedAt));
    }

    private static void CheckFence(RetirementProof proof, FenceProof fence, List<string> problems)
    {
        if (fence.SignaledAt is null && (fence.IsForced || fence.HasEnded))
        {
            problems.Add($"fence {fence.Fence} is pending, and yet said to be forced or ended");
        }

        if (fence.SignaledAt is not null && !fence.IsForced && !fence.HasEnded)
        {
            problems.Add($"fence {fence.Fence} was signalled by its owner, and yet said not to have ended");
        }

        if (fence.SignaledAt is null && proof.FencesSignaledAt is not null)
        {
            problems.Add($"fence {fence.Fence} is pending, and yet all are said to have signalled");
        }

        Order(
            problems,
            $"fence {fence.Fence}",
            ("it signalled", fence.SignaledAt),
            ("the revoke ended", proof.CompletedAt));
    }

    private static RetirementGrade GradeOf(ImporterProof i) => GradeRules.OfImporter(new ImporterRecord(
        i.WasMapped,
        i.AcknowledgedAt is not null,
        i.KeyDeadAt is not null,
        i.GateClosedAt is not null,
        i.DrainedAt is not null,
        i.UnmappedAt is not null,
        i.StoppedAt is not null,
        i.Drain));

    // A time that never came is left out.
    private static void Order(
        List<string> problems, string who, params ReadOnlySpan<(string What, TimeSpan? At)> events)
    {
        (string What, TimeSpan? At) last = ("", null);
        foreach ((string What, TimeSpan? At) next in events)
        {
            if (next.At < last.At)
            {
                problems.Add($"{who}: {next.What} at {next.At}, before {last.What} at {last.At}");
            }

            last = next.At is null ? last : next;
        }
    }
}
