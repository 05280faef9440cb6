using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Vfio;
using Wayleave.Simulation;
using Wayleave.Tests.PeerMemory;
using Xunit;

namespace Wayleave.Tests.Vfio;

/// <summary>
/// A reset and a switching-off among an importer that maps again when it can, and an iommufd that cannot, in every
/// order of the steps.
/// </summary>
public sealed class VfioExplorationTests
{
    private const ulong Page = VfioFixture.Page;
    private const ulong Iova = 0x10_0000;

    [Fact]
    public void A_function_is_reset_when_nobody_is_inside_in_any_order()
    {
        HashSet<string> outcomes = [];

        Exploration exploration = Explorer.Exhaustive(_ => Build(new VfioOptions(), outcomes));

        Assert.True(exploration.Runs > 100, $"only {exploration.Runs} orders");
        Assert.Equal(
            ["wrote 0", "wrote 1", "wrote 2", "wrote 3"], outcomes.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void A_driver_that_does_not_wait_is_caught_in_some_order() =>
        Assert.Contains(
            "reset under an access",
            Assert.Throws<InterleavingException>(
                () => Explorer.Exhaustive(_ => Build(new VfioOptions { WaitsForImporters = false }, []))).Message,
            StringComparison.Ordinal);

    private static Scenario Build(VfioOptions options, HashSet<string> outcomes)
    {
        VfioFixture f = new(options);
        SharedBuffer buffer = f.Export(new VfioRange(0, 4 * Page));
        PeerUser user = new(f.Host, f.Importer);
        Assert.Equal(Errno.Success, user.TryAttach(buffer));
        IoAddressSpace space = new(f.Host, "vm 1");
        f.Locked(() => space.TryMapFile(buffer, 0, Page, Iova, out _));
        int inside = 0;
        int wrote = 0;
        int resetsSeen = 0;

        IEnumerable<Step> User()
        {
            for (int packet = 0; packet < 2; packet++)
            {
                yield return "map";
                if (user.Attachment!.State == MappingState.Unmapped && user.TryMap() != Errno.Success)
                {
                    continue; // the BARs are off
                }

                yield return "enter";
                if (!user.TryEnter())
                {
                    continue;
                }

                inside++;
                yield return "write";
                user.Land(0, 1);
                wrote++;
                yield return "leave";
                inside--;
                user.Leave();
            }
        }

        IEnumerable<Step> Assigned()
        {
            yield return "translate";
            if (!space.TryTranslate(Iova, out Translation? translation, out DeviceAddress address, out _))
            {
                yield break;
            }

            yield return "enter";
            if (!translation!.Gate.TryEnter())
            {
                yield break;
            }

            inside++;
            yield return "write";
            Assert.Equal(Errno.Success, new DmaPort(f.Importer).TryWrite(address, 1, out _));
            wrote++;
            inside--;
            translation.Gate.Exit();
        }

        IEnumerable<Step> Driver()
        {
            yield return "reset";
            VfioTransition reset = f.Locked(f.Device.Reset);
            yield return new Step("memory off", () => reset.IsCompleted);
            VfioTransition off = f.Locked(() => f.Device.SetMemoryEnable(false));
            yield return new Step("done", () => off.IsCompleted);
            Assert.False(f.Device.Function.DecodesMemory);
        }

        return new Scenario(
            [new Actor("importer", User()), new Actor("assigned", Assigned()), new Actor("driver", Driver())],
            () =>
            {
                if (f.Resets > resetsSeen && inside > 0)
                {
                    throw new InvalidOperationException("reset under an access");
                }

                resetsSeen = f.Resets;
            },
            AtEnd: () =>
            {
                Assert.True(buffer.IsRevoked);
                Assert.Equal(1, f.Resets);
                outcomes.Add($"wrote {wrote}");
            });
    }
}
