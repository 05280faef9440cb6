using System.Globalization;
using System.Text;

namespace Wayleave.Tests.Recorded;

/// <summary>
/// The table of docs/conformance.md that holds our software against a real kernel: made of the records of the lab and
/// of what our software answers when the page is made.
/// </summary>
internal static class HeldTable
{
    private const string Introduction =
        """

        ## Held against the real kernel

        What Linux KERNEL answered in the [lab](lab.md), beside what our software answers to the same question now.

        - Buffers: udmabuf, dma-heap and vgem gave the same answer by system calls, through the adapters of
          Wayleave.Linux, and through Core over them.
        - Peer to peer: map type, distance, and whether a read and a write of file data work, are refused or corrupt.
          `sw-` is below one switch, `rp-` below root ports, `rc-` on the root complex; the machine stands in brackets.
          `topo --live` in the guest gave the kernel's map type and distance too.
        - RDMA: how many packets were asked and answered, the last syndrome, the status of each completion. Compared
          are the opcode, PSN, length, pad, request for an answer, syndrome and MSN of each packet.


        """;

    /// <summary>Every question, in the order of the page.</summary>
    public static IReadOnlyList<HeldRow> Rows() =>
    [
        .. BufferRecordTests.Rows(), .. PoolRecordTests.Rows(), .. PeerToPeerRecordTests.Rows(),
        .. RdmaRecordTests.Rows(),
    ];

    public static void Append(StringBuilder page)
    {
        IReadOnlyList<HeldRow> rows = Rows();
        page.Append(Introduction.Replace("KERNEL", KernelRecord.KernelVersion("dmabuf"), StringComparison.Ordinal));
        page.Append(
            CultureInfo.InvariantCulture,
            $"{rows.Count} questions, {rows.Count(r => r.IsSame)} with the same answer.\n\n");
        page.Append("| Case | Question | Ours | The kernel's | Lab test |\n|---|---|---|---|---|\n");
        foreach (HeldRow row in rows)
        {
            string name = row.Case.Length == 0 ? "" : row.Case + " ";
            string difference = row.IsSame ? "" : $"; **differs** {row.Note}";
            page.Append(CultureInfo.InvariantCulture, $"| {name}| {Cell(row.Question)} |");
            page.Append(CultureInfo.InvariantCulture, $" {Cell(row.Ours)}{difference} |");
            page.Append(CultureInfo.InvariantCulture, $" {Cell(row.Kernel)} | {row.LabTest} |\n");
        }
    }

    private static string Cell(string text) => text.Replace("|", "\\|", StringComparison.Ordinal);
}
