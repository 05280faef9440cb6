using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Ethernet;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Objects;
using Wayleave.Linux.Devmem;
using Wayleave.Linux.Tests.Ethernet;
using Xunit;

namespace Wayleave.Linux.Tests.Devmem;

/// <summary>
/// The kernel's own devmem TCP as far as a kernel without a NIC that can do it goes: ordinary data read in the new way,
/// limits, refusals that leave nothing behind.
/// </summary>
public sealed class LinuxDevmemTests
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(60);

    private static CancellationToken Canceled => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(1)]
    [InlineData(5_000_000)]
    public async Task Ordinary_data_is_read_without_descriptions_to_the_end_of_the_stream(int length)
    {
        using CancellationTokenSource patience = new(s_limit);
        byte[] sent = RandomNumberGenerator.GetBytes(length);
        (Socket sender, IDevmemConnection reader) = await ConnectAsync();
        await using (reader)
        {
            Task sending = Task.Run(
                () =>
                {
                    using (sender)
                    {
                        sender.Send(sent);
                    }
                },
                patience.Token);
            using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            byte[] linear = new byte[64 << 10];
            await foreach (DevmemFragment fragment in reader.ReadAllAsync(linear, patience.Token))
            {
                Assert.Equal((DevmemFragmentKind.Linear, 0U, 0U), (fragment.Kind, fragment.Token, fragment.BindingId));
                hash.AppendData(linear.AsSpan((int)fragment.Offset, (int)fragment.LengthBytes));
            }

            await sending;
            Assert.Equal(SHA256.HashData(sent), hash.GetHashAndReset());
            Assert.Equal((0L, (long)length), reader.GetReceived());
        }
    }

    [Fact]
    public async Task A_reader_that_gives_no_room_is_told_so_and_not_that_nothing_is_left()
    {
        (Socket sender, IDevmemConnection reader) = await ConnectAsync();
        using (sender)
        {
            await using (reader)
            {
                sender.Send("x"u8);
                Assert.Equal(Errno.ETOOSMALL, reader.TryRead([], new DevmemFragment[1], out _));
                Assert.Equal(Errno.ETOOSMALL, reader.TryRead(new byte[1], [], out _));
                ReceiveResult result = await reader.ReadAsync(new byte[1], new DevmemFragment[1], Canceled);
                Assert.Equal(new ReceiveResult(1, 1, 0), result);
                Assert.Equal(Errno.EAGAIN, reader.TryRead(new byte[1], new DevmemFragment[1], out _));
            }
        }
    }

    [Fact]
    public async Task A_reset_and_a_cancel_end_a_wait()
    {
        (Socket sender, IDevmemConnection reader) = await ConnectAsync();
        await using (reader)
        {
            using CancellationTokenSource cancel = new();
            Task<ReceiveResult> waiting = reader.ReadAsync(new byte[1], new DevmemFragment[1], cancel.Token).AsTask();
            await cancel.CancelAsync();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => waiting);
            waiting = reader.ReadAsync(new byte[1], new DevmemFragment[1], Canceled).AsTask();
            sender.Close(timeout: 0);
            WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => waiting);
            Assert.Equal(Errno.ECONNRESET, e.Errno);
        }
    }

    [Fact]
    public async Task The_kernel_refuses_129_ranges_and_datagrams_and_passes_over_unknown_tokens()
    {
        (Socket sender, IDevmemConnection reader) = await ConnectAsync();
        using (sender)
        {
            await using (reader)
            {
                try
                {
                    Assert.Equal(0, reader.ReturnTokens([new TokenRange(1, 2000)]));
                }
                catch (WayleaveException e) when (e.Errno is Errno.ENOPROTOOPT)
                {
                    Assert.Skip("this kernel has no SO_DEVMEM_DONTNEED");
                }

                WayleaveException many = Assert.Throws<WayleaveException>(
                    () => reader.ReturnTokens(new TokenRange[TokenRange.RangesMax + 1]));
                Assert.Equal(Errno.EINVAL, many.Errno);
                Assert.Equal(0, reader.ReturnTokens(new TokenRange[TokenRange.RangesMax]));
            }
        }

        using Socket datagrams = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        Assert.Equal(Errno.EBADF, DevmemReceiver.DontNeed(datagrams, [new DevmemTokens(1, 1)], out _));
    }

    [Fact]
    public async Task A_send_from_a_binding_that_does_not_exist_is_refused()
    {
        (Socket sender, IDevmemConnection reader) = await ConnectAsync();
        using (sender)
        {
            await using (reader)
            {
                Errno without = DevmemSender.TrySend(sender, 12345, 0, 4096, out int sent);
                Assert.SkipWhen(without == Errno.EFAULT, "this kernel sends addresses and knows no bindings");
                Assert.Equal((Errno.EINVAL, 0), (without, sent));
                Assert.Equal(Errno.Success, DevmemSender.Enable(sender));
                Assert.Equal(Errno.EINVAL, DevmemSender.TrySend(sender, 12345, 0, 4096, out sent));
                Assert.Equal(Errno.EAGAIN, DevmemSender.TryReadCompletion(sender, out _));
            }
        }
    }

    // The lab does the same in a kernel that has udmabuf and bind-rx.
    [Fact]
    public async Task A_bind_that_is_refused_leaves_the_object_as_it_was_and_says_why()
    {
        HostConfig config = EthernetHost.Config with
        {
            Ethernets = [],
            LinuxNics = [new LinuxNicConfig { Name = "lo", Interface = "lo" }],
        };
        await using WayleaveHost host = await WayleaveHost.StartAsync(config);
        LinuxNicHandle nic = Assert.Single(host.LinuxNics);
        DeviceObject o = await host.Objects.CreateAsync("gpu0", "rx", 1 << 20, StorageKind.Static, Canceled);
        await host.Objects.CommitAsync(o, sha256: null);
        BindRequest request = new() { Queues = [0] };
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => nic.BindReceiveAsync(host, o, request));
        Assert.Contains(e.Errno, (Errno[])[Errno.ENOENT, Errno.EACCES, Errno.EOPNOTSUPP, Errno.EPERM]);
        Assert.Contains("bind gpu0/rx to queue 0 of lo", e.Message, StringComparison.Ordinal);
        Assert.Empty(o.Buffer.Attachments);
        string zeros = Convert.ToHexStringLower(SHA256.HashData(new byte[1 << 20]));
        Assert.Equal(zeros, await host.Objects.Sha256Async(o, Canceled));

        e = await Assert.ThrowsAsync<WayleaveException>(
            () => nic.BindReceiveAsync(host, o, request with { Kind = ImporterKind.PinnedRevocable }));
        Assert.Equal(Errno.EOPNOTSUPP, e.Errno);
        e = await Assert.ThrowsAsync<WayleaveException>(
            () => nic.BindReceiveAsync(host, o, request with { ChunkBytes = 65536 }));
        Assert.Equal(Errno.EINVAL, e.Errno);
    }

    // netrecv over a NIC of the kernel's: everything that was taken for it is back after the refusal.
    [Fact]
    public async Task A_reception_by_a_NIC_that_cannot_ends_with_the_reason_and_nothing_left()
    {
        HostConfig config = EthernetHost.Config with
        {
            Ethernets = [],
            LinuxNics = [new LinuxNicConfig { Name = "wire", Interface = "lo" }],
        };
        await using WayleaveHost host = await WayleaveHost.StartAsync(config);
        ReceiveRequest request = new() { Queue = 0, Device = "gpu0", BufferBytes = 1 << 20 };
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => NetReceive.OpenAsync(host, host.LinuxNics[0], request, Canceled));
        Assert.Contains("queue 0 of wire", e.Message, StringComparison.Ordinal);
        Assert.Empty(host.Objects.List());
        Assert.Empty(host.LinuxNics[0].Operations);
        e = await Assert.ThrowsAsync<WayleaveException>(
            () => NetReceive.OpenAsync(host, host.LinuxNics[0], request with { Port = 0 }, Canceled));
        Assert.Equal(Errno.EINVAL, e.Errno);
    }

    [Fact]
    public async Task A_NIC_of_the_kernel_has_its_interfaces_addresses_and_one_that_is_gone_has_none()
    {
        HostConfig config = EthernetHost.Config with
        {
            Ethernets = [],
            LinuxNics =
            [
                new LinuxNicConfig { Name = "lo", Interface = "lo" },
                new LinuxNicConfig { Name = "eth9", Interface = "wlnothere" },
            ],
        };
        await using WayleaveHost host = await WayleaveHost.StartAsync(config);
        Assert.Contains(
            "127.0.0.1", host.LinuxNics[0].Addresses.Select(a => a.ToString()), StringComparer.Ordinal);
        Assert.Empty(host.LinuxNics[1].Addresses);
        DeviceObject o = await host.Objects.CreateAsync("gpu0", "rx", 4096, StorageKind.Static, Canceled);
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => host.LinuxNics[1].BindReceiveAsync(host, o, new BindRequest { Queues = [0] }));
        Assert.Equal(Errno.ENODEV, e.Errno);
    }

    private static async Task<(Socket Sender, IDevmemConnection Reader)> ConnectAsync()
    {
        using CancellationTokenSource patience = new(s_limit);
        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(1);
        Socket sender = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        await sender.ConnectAsync(listener.LocalEndPoint!, patience.Token);
        return (sender, new LinuxDevmemConnection(await listener.AcceptAsync(patience.Token)));
    }
}
