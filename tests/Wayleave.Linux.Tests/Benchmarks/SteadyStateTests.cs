using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Benchmarks;
using Wayleave.Host.Configuration;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Ports;
using Xunit;

namespace Wayleave.Linux.Tests.Benchmarks;

/// <summary>
/// Two ports in this process, both driven by this thread, so that every allocation of the path is seen.
/// </summary>
public sealed class SteadyStateTests
{
    private const int MessageBytes = 20_000;
    private const int Depth = 8;

    [Theory]
    [InlineData(WorkRequestOpcode.RdmaWrite)]
    [InlineData(WorkRequestOpcode.RdmaRead)]
    [InlineData(WorkRequestOpcode.Send)]
    public async Task Nothing_is_allocated_per_packet_or_request(WorkRequestOpcode opcode)
    {
        await using WayleaveHost here = await StartAsync("127.0.0.2");
        await using WayleaveHost there = await StartAsync("127.0.0.3");
        (MemoryRegion local, CompletionQueue sends, QueuePair near) = await OpenAsync(here);
        (MemoryRegion remote, CompletionQueue receives, QueuePair far) = await OpenAsync(there);
        Connect(here.Nics[0], near, there.Nics[0], far);
        void Run(int messages) =>
            Transfer(here.Nics[0], there.Nics[0], opcode, messages, near, sends, local, far, receives, remote);

        Run(200); // compiles, and grows what grows once
        long before = GC.GetAllocatedBytesForCurrentThread();
        Run(500);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    private static void Transfer(
        NicHandle here,
        NicHandle there,
        WorkRequestOpcode opcode,
        int messages,
        QueuePair near,
        CompletionQueue sends,
        MemoryRegion local,
        QueuePair far,
        CompletionQueue receives,
        MemoryRegion remote)
    {
        Span<WorkCompletion> batch = stackalloc WorkCompletion[Depth];
        int posted = 0, completed = 0;
        while (completed < messages)
        {
            for (; posted < messages && posted - completed < Depth; posted++)
            {
                if (opcode == WorkRequestOpcode.Send)
                {
                    far.PostReceive(new ReceiveWorkRequest(0), new Sge(0, MessageBytes, remote.Key));
                }

                SendWorkRequest request = new() { Opcode = opcode, Flags = SendFlags.Signaled, RKey = remote.Key };
                Assert.True(near.PostSend(request, new Sge(0, MessageBytes, local.Key)) == Errno.Success);
            }

            here.Driver.TryProgress();
            there.Driver.TryProgress();
            receives.Poll(batch);
            int count = sends.Poll(batch);
            foreach (ref readonly WorkCompletion completion in batch[..count])
            {
                Assert.True(completion.Status == WorkCompletionStatus.Success);
            }

            completed += count;
        }
    }

    private static Task<WayleaveHost> StartAsync(string address)
    {
        HostConfig config = new()
        {
            Gpus = [new GpuConfig { Name = BenchmarkEnd.GpuName, VramBytes = 1 << 20, SystemPoolBytes = 0 }],
            Nics = [new NicConfig { Address = System.Net.IPAddress.Parse(address), UdpPort = 0 }],
        };
        return WayleaveHost.StartAsync(
            config, new WayleaveHostOptions { Driver = new PortDriverOptions { HasEngine = false } });
    }

    private static async Task<(
        MemoryRegion Region, CompletionQueue Completions, QueuePair Pair)> OpenAsync(WayleaveHost host)
    {
        NicHandle nic = host.Nics[0];
        DeviceObject o = await host.Objects.CreateAsync(
            BenchmarkEnd.GpuName, "o", 65536, StorageKind.Movable, TestContext.Current.CancellationToken);
        ProtectionDomain domain = nic.Device.CreateProtectionDomain();
        AccessFlags access = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead;
        MemoryRegion region = await nic.RegisterAsync(
            domain, o.Buffer, new MemoryRegionRequest(0, o.SizeBytes, 0, access, ImporterKind.Dynamic));
        CompletionQueue completions = nic.CreateCompletionQueue(4 * Depth);
        return (region, completions, nic.CreateQueuePair(domain, completions));
    }

    private static void Connect(NicHandle here, QueuePair near, NicHandle there, QueuePair far)
    {
        ConnectionEnd ours = here.DescribeEnd(near, here.ChoosePsn());
        ConnectionEnd theirs = there.DescribeEnd(far, there.ChoosePsn());
        here.Connect(near, theirs, AccessFlags.RemoteWrite | AccessFlags.RemoteRead, ours.Psn);
        there.Connect(far, ours, AccessFlags.RemoteWrite | AccessFlags.RemoteRead, theirs.Psn);
    }
}
