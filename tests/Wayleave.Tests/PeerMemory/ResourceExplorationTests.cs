using Wayleave.Core;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.PeerMemory;

/// <summary>
/// A process dies with its NIC at work, and its memory goes to somebody else, in every order of the steps: a NIC that
/// allocates and places two packets, the death, another importer of another resource, and the next owner.
/// </summary>
public sealed class ResourceExplorationTests
{
    private const ulong Page = ResourceFixture.Page;

    [Fact]
    public void No_packet_lands_in_memory_that_was_given_on_in_any_order()
    {
        HashSet<string> outcomes = [];

        Exploration exploration = Explorer.Exhaustive(_ => Build(new GpuOptions(), outcomes));

        Assert.True(exploration.Runs > 50, $"only {exploration.Runs} orders");
        Assert.Equal(["placed 0", "placed 1", "placed 2"], outcomes.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void A_device_that_takes_its_range_back_before_the_drain_is_caught_in_some_order() =>
        Assert.Contains(
            "late write",
            Assert.Throws<InterleavingException>(
                () => Explorer.Exhaustive(_ => Build(new GpuOptions { WaitsForProof = false }, []))).Message,
            StringComparison.Ordinal);

    private static Scenario Build(GpuOptions options, HashSet<string> outcomes)
    {
        ResourceFixture f = new(options);
        PeerHandleTable process = new(f.Host, "process 1");
        PeerHandle handle = f.Add("a", 6);
        f.Locked(() => process.TryInstall(handle, out _));
        (PeerUser nic, PeerImport import) = f.Use(handle, f.Nic);
        (PeerUser other, PeerImport otherImport) = f.Use(f.Add("b", 2, "process 2"), f.Other);
        PeerChunk otherChunk = f.Allocate(otherImport);
        bool handedOut = false;
        int placed = 0;

        IEnumerable<Step> Nic()
        {
            yield return "allocate";
            PeerChunk? chunk = null;
            if (f.Locked(() => import.TryAllocate(Page, out chunk)) != Errno.Success)
            {
                yield break;
            }

            for (int packet = 0; packet < 2; packet++)
            {
                yield return "enter";
                if (!nic.TryEnter())
                {
                    yield break;
                }

                yield return "place";
                nic.Land(chunk!.Offset, 0xEE);
                placed++;
                yield return "leave";
                nic.Leave();
            }
        }

        IEnumerable<Step> Process()
        {
            yield return "die";
            f.Locked(process.CloseAll);
        }

        IEnumerable<Step> Other()
        {
            yield return "write";
            Assert.True(other.TryWrite(otherChunk.Offset, 0xBB)); // whatever becomes of the first process
        }

        IEnumerable<Step> NextOwner()
        {
            yield return new Step("take the memory", () => f.Gpu.Memory(GpuDomain.Vram).FreeBytes >= 6 * Page);
            Assert.NotNull(f.TakeVram(6)); // and clear it
            handedOut = true;
        }

        return new Scenario(
            [new Actor("nic", Nic()), new Actor("process", Process()), new Actor("other", Other()),
                new Actor("next owner", NextOwner())],
            () =>
            {
                if (handedOut && f.Vram.Contains((byte)0xEE))
                {
                    throw new InvalidOperationException("late write: a byte of the next owner changed");
                }
            },
            AtEnd: () =>
            {
                Assert.True(handedOut);
                Assert.Equal(PeerResourceState.Returned, handle.Resource.State);
                Assert.Equal(RetirementGrade.Retired, handle.Resource.Removal!.Proof!.Grade);
                Assert.Contains((byte)0xBB, f.Vram);
                outcomes.Add($"placed {placed}");
            });
    }
}
