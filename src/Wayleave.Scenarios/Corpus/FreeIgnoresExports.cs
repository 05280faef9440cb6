using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// Report: https://github.com/tenstorrent/tt-kmd/pull/251 (Add TENSTORRENT_IOCTL_EXPORT_TLB_DMABUF), which lists among
// its known limitations, since fixed, that FREE_TLB ignores outstanding exports: a window can be freed, and given to
// another process with another target behind it, while a dma-buf still refers to its aperture and a NIC has it mapped.
//
// Faithful: the exporter is a fixed aperture that never moves, the importer pins and maps it and knows nothing of the
// free, and the aperture's next use is another process's.
// Not faithful: where the report settles on EBUSY while an export is live, this exporter takes the export back.

/// <summary>An exporter frees what it has exported as if it had not.</summary>
internal static class FreeIgnoresExports
{
    public static NamedScenario Scenario { get; } = new(
        "free-ignores-exports",
        "A process frees a window of a device's aperture that a NIC has imported; the window goes to another process "
        + "only when the NIC has stopped.",
        c => Build(c, ignoresExports: false),
        [
            new("exports-ignored", "The window is free when its owner frees it, whoever has imported it.",
                c => Build(c, ignoresExports: true)),
        ])
    {
        Reports = ["tenstorrent/tt-kmd#251"],
        Defence = "freeing an exported window revokes the export and waits for its proof",
    };

    private static Scenario Build(Choices choices, bool ignoresExports)
    {
        Lending window = Lending.Of(choices, StorageKind.Revocable);
        LendingUser nic = window.AddUser("nic", ImporterKind.PinnedRevocable, offset: 0);
        return window.ToScenario(
            [nic],
            atEnd: () =>
            {
                if (window.BytesOf(0)[0] != 0)
                {
                    throw new ViolationException("the other process finds what the nic wrote");
                }
            },
            ("nic", nic.Write(rounds: 2, detaches: true)),
            ("owner", Free(window, ignoresExports)));
    }

    private static IEnumerable<Step> Free(Lending window, bool ignoresExports)
    {
        yield return "free the window";
        if (!ignoresExports)
        {
            RevokeOperation operation;
            using (window.Host.Enter())
            {
                operation = RevokeOperation.Start(window.Shared, new RevokePolicy { Reason = "the window was freed" });
            }

            yield return new("the proof", () => operation.State == RevokeState.Retired);
        }

        window.HandOver(0, "another process");
    }
}
