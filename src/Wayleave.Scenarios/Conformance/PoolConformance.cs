using System.Globalization;

namespace Wayleave.Scenarios.Conformance;

/// <summary>
/// The cases of docs/cases.md about taking peer-to-peer memory into a process, put to a backend step by step. Its pool
/// has at least 16 free pages in one piece; how many it has in all does not show.
/// </summary>
/// <param name="backend">Who is asked.</param>
/// <param name="step">As for <see cref="BufferConformance"/>.</param>
public sealed class PoolConformance(IPoolBackend backend, Action<string, string, string> step)
{
    private const ulong Page = 4096;

    /// <summary>Everything, always in the same order.</summary>
    public void Run()
    {
        ulong before = backend.AvailableBytes;
        foreach (ulong length in (ReadOnlySpan<ulong>)[1, Page, Page + 1, 16 * Page])
        {
            using (IDisposable? mapping = backend.TryMap(length, isShared: true, 0, out string result))
            {
                step("P2P-03", $"mmap of {length} bytes", result);
                step("P2P-03", $"pages that it takes for {length} bytes", Pages(before));
            }

            step("P2P-03", $"pages that are missing after munmap of {length} bytes", Pages(before));
        }

        Refused("mmap private", Page, isShared: false, 0);
        Refused("mmap at an offset of a page", Page, isShared: true, Page);
        Refused("mmap of nothing", 0, isShared: true, 0);
        Refused("mmap of a page more than there is", backend.SizeBytes + Page, isShared: true, 0);
        step("P2P-21", "pages that are missing after what was refused", Pages(before));
        Exhaust(before);
    }

    private void Refused(string what, ulong length, bool isShared, ulong offset)
    {
        using IDisposable? mapping = backend.TryMap(length, isShared, offset, out string result);
        step("P2P-21", what, result);
    }

    private void Exhaust(ulong before)
    {
        List<IDisposable> mappings = [];
        ulong length = backend.AvailableBytes;
        while (length >= Page)
        {
            // In pieces of half the size where it is not in one piece.
            if (backend.TryMap(length, isShared: true, 0, out _) is { } mapping)
            {
                mappings.Add(mapping);
                length = Math.Min(length, backend.AvailableBytes);
            }
            else
            {
                length = length / 2 / Page * Page;
            }
        }

        step("P2P-21", "pages that are left when all are taken",
            (backend.AvailableBytes / Page).ToString(CultureInfo.InvariantCulture));
        Refused("mmap of a page when all are taken", Page, isShared: true, 0);
        foreach (IDisposable mapping in mappings)
        {
            mapping.Dispose();
        }

        step("P2P-21", "pages that are missing after the last munmap", Pages(before));
    }

    private string Pages(ulong before) =>
        ((before - backend.AvailableBytes) / Page).ToString(CultureInfo.InvariantCulture);
}
