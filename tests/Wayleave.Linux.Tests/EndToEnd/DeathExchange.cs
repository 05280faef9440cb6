using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Wayleave.Linux.Sharing;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>
/// Where the victim meets the bystander: descriptors of memory and of fences go to and fro, and a peer on another host
/// that writes to what the victim has registered.
/// </summary>
internal sealed class DeathExchange(Socket listener, DeathBystander bystander, WayleaveHost peer) : IDisposable
{
    // Of SharedBelongings, in its order: what never ends, what is behind it, a copy after it, its own, a merge of both.
    private static readonly Errno[][] s_ends =
    [
        [Errno.ECANCELED],
        [Errno.ECANCELED],
        [Errno.Success, Errno.ECANCELED], // it was let go on; its memory may have gone before
        [Errno.ENOENT],
        [Errno.ECANCELED],
    ];

    private readonly List<ClientMapping> _given = [];
    private readonly List<ClientFence> _fences = [];
    private readonly List<ClientFence> _behind = [];
    private readonly List<IDisposable> _held = [];
    private Task? _meeting;
    private DeviceObject? _local;

    /// <summary>What the peer's writes to the victim's key ended with; null when there was no such peer.</summary>
    public Task<WorkCompletionStatus>? Writes { get; private set; }

    /// <summary>Fences of the victim's that came across, and that work waits for.</summary>
    public int Fences => _behind.Count == 2 ? _fences.Count : 0;

    public static DeathExchange Start(string meeting, DeathBystander bystander, WayleaveHost peer)
    {
        DeathExchange exchange = new(MessageSocket.Listen(meeting, 4), bystander, peer);
        exchange._meeting = Task.Factory.StartNew(exchange.Run, TaskCreationOptions.LongRunning);
        return exchange;
    }

    /// <summary>Nobody has been told anything: of all fences the descriptors say that they are pending.</summary>
    public void ExpectWaiting()
    {
        Assert.Equal((s_ends.Length, 2), (_fences.Count, _behind.Count));
        Assert.All(_fences.Concat(_behind), f => Assert.False(f.Wait(TimeSpan.Zero)));
    }

    /// <summary>
    /// The victim is dead. Whoever waited for something of it has been told how that ended, and went on; what it gave
    /// away has every byte.
    /// </summary>
    public async Task ExpectToldAsync()
    {
        Stop();
        for (int i = 0; i < _fences.Count; i++)
        {
            Assert.True(_fences[i].Wait(Patience.Max), $"nobody was told of fence {i}");
            Assert.True(_fences[i].TryGetResult(out Errno error, out _));
            Assert.Contains(error, s_ends[i]);
        }

        foreach (ClientFence fence in _behind)
        {
            Assert.True(fence.Wait(Patience.Max), "work behind a fence of the dead never ran");
            Assert.True(fence.TryGetResult(out Errno error, out _));
            Assert.Equal(Errno.Success, error);
        }

        if (Writes is not null)
        {
            Assert.NotEqual(WorkCompletionStatus.Success, await Writes);
        }

        Assert.All(_given, m => Assert.Equal(-1, m.Memory.Span.IndexOfAnyExcept((byte)0xEE)));
    }

    /// <summary>Nobody meets any more; throws what went wrong at a meeting.</summary>
    public void Stop()
    {
        listener.Dispose();
        Task? meeting = _meeting;
        _meeting = null;
        meeting?.GetAwaiter().GetResult();
    }

    public void Dispose()
    {
        Stop();
        _given.ForEach(m => m.Dispose());
        _held.ForEach(h => h.Dispose());
        _given.Clear();
        _held.Clear();
    }

    private void Run()
    {
        byte[] word = new byte[1024];
        while (true)
        {
            Socket accepted;
            try
            {
                accepted = listener.Accept();
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                return; // Stop
            }

            using MessageSocket met = new(accepted);
            if (met.Receive(word, out int length, out FileDescriptor[] sent) != Errno.Success || length == 0)
            {
                continue; // it died before it said anything
            }

            string said = Encoding.UTF8.GetString(word, 0, length);
            if (said == "give")
            {
                ClientBuffer buffer = bystander.Broker.Import(sent[0]);
                _held.AddRange([buffer, .. sent]);
                _given.Add(buffer.Map());
            }
            else if (said == "take")
            {
                _ = met.Send("take"u8, [bystander.Exported], waits: false); // or it died while it waited
            }
            else if (said == "fences")
            {
                _fences.AddRange(sent.Select(ClientFence.FromDescriptor));
                _behind.AddRange([bystander.WaitBehind(_fences[0]), bystander.CopyShared()]);
                _held.AddRange([.. _fences, .. _behind]);
            }
            else
            {
                string[] words = said.Split(' ', 3);
                StartWrites(met, uint.Parse(words[1]), words[2]);
            }
        }
    }

    private void StartWrites(MessageSocket met, uint key, string end)
    {
        _local = peer.Objects
            .CreateAsync("gpu0", "for-victim", DeathTests.Bytes, null, CancellationToken.None)
            .GetAwaiter().GetResult();
        Connection connection = Connection.OpenAsync(peer.Nics[0], _local).GetAwaiter().GetResult();
        byte[] answer = JsonSerializer.SerializeToUtf8Bytes(
            ConnectionEndDocument.From(connection.Local), ControlJson.Default.ConnectionEndDocument);
        if (met.Send(answer, [], waits: false) != Errno.Success
            || met.Receive(answer, out int length, out _) != Errno.Success || length == 0)
        {
            EndAsync(connection).GetAwaiter().GetResult();
            return; // it died before it was connected
        }

        connection.Connect(
            JsonSerializer.Deserialize(end, ControlJson.Default.ConnectionEndDocument)!.ToEnd());
        Writes = Task.Factory.StartNew(
            () => WriteAsync(connection, key).GetAwaiter().GetResult(), TaskCreationOptions.LongRunning);
    }

    // Until it cannot.
    private async Task<WorkCompletionStatus> WriteAsync(Connection connection, uint key)
    {
        BulkTransfer bulk = new(peer.Nics[0].Driver, connection.QueuePair, connection.Completions, peer.Context);
        BulkRange range = new(0, connection.Region.Key, 0, key, DeathTests.Bytes);
        WorkCompletionStatus status;
        do
        {
            status = bulk.Run(BulkDirection.Write, range, CancellationToken.None);
        }
        while (status == WorkCompletionStatus.Success);
        await EndAsync(connection);
        return status;
    }

    private async Task EndAsync(Connection connection)
    {
        await connection.DisposeAsync();
        await peer.Objects.AbortAsync(_local!, "the test ended");
    }
}
