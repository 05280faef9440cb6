namespace Wayleave.Tests.Recorded;

/// <summary>One question that a kernel and our software were asked: a row of docs/conformance.md.</summary>
/// <param name="Case">The case of docs/cases.md, or empty.</param>
/// <param name="Question">What was done.</param>
/// <param name="Ours">What our software answers now.</param>
/// <param name="Kernel">What is recorded of the kernel.</param>
/// <param name="LabTest">Which test of the lab recorded it.</param>
internal sealed record HeldRow(string Case, string Question, string Ours, string Kernel, string LabTest)
{
    /// <summary>Whether the answers are the same, also in what is not shown.</summary>
    public required bool IsSame { get; init; }

    /// <summary>Why not, where that is meant.</summary>
    public string Note { get; init; } = "";
}
