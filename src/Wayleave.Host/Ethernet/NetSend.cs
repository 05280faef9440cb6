using System.Diagnostics;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Ethernet;

/// <summary>What a send did.</summary>
/// <param name="Bytes">Acknowledged by the peer.</param>
/// <param name="FrameBytes">Copied out of device memory into frames, repetitions included.</param>
/// <param name="Sha256">Of what was sent, lower-case hexadecimal.</param>
/// <param name="Connecting">From the first packet to the connection.</param>
/// <param name="Elapsed">From the connection to the last acknowledgement.</param>
public sealed record SentContent(ulong Bytes, long FrameBytes, string Sha256, TimeSpan Connecting, TimeSpan Elapsed);

/// <summary>
/// Sends an object over a TCP connection, from the device memory that it is in (<c>bind-tx</c>). The owner may take it
/// back at any time: the peer is reset then.
/// </summary>
public sealed class NetSend : NetOperation
{
    private readonly EthernetHandle _nic;
    private readonly DeviceObject _object;
    private readonly bool _isTemporary;
    private TransmitBinding? _binding;
    private volatile bool _isClosing;

    /// <param name="host">Of both.</param>
    /// <param name="nic">It sends.</param>
    /// <param name="o">A ready object.</param>
    /// <param name="isTemporary">The object is given up at the end.</param>
    /// <exception cref="WayleaveException">ENODEV: the NIC is on its way out.</exception>
    public NetSend(WayleaveHost host, EthernetHandle nic, DeviceObject o, bool isTemporary)
        : base(host, nic, $"send {o} by {nic.Name}") => (_nic, _object, _isTemporary) = (nic, o, isTemporary);

    /// <summary>Bytes that went into frames so far, repetitions included.</summary>
    public long FrameBytes => _nic.Nic.Driver.WithToken(() => _binding?.BytesSent ?? 0);

    /// <summary>Connects, sends all of it, and waits until the peer has acknowledged it and the end.</summary>
    /// <exception cref="WayleaveException">
    /// ECONNREFUSED, ETIMEDOUT, ENETUNREACH, EHOSTUNREACH, EPIPE, ECONNRESET; ENODEV: the object or the NIC was taken
    /// away; EREMOTEIO: the NIC does not reach the object.
    /// </exception>
    public async Task<SentContent> RunAsync(IpAddress remote, ushort port, CancellationToken cancellation)
    {
        using CancellationTokenSource over = CancellationTokenSource.CreateLinkedTokenSource(cancellation, Over);
        try
        {
            return await RunToEndAsync(remote, port, over.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (
            e is WayleaveException or ObjectDisposedException
            || (e is OperationCanceledException && !cancellation.IsCancellationRequested))
        {
            Exception told = Explain(
                _binding is { IsRevoked: true }
                    ? TakenBack($"{_object} was taken back by its owner; the peer was reset", e)
                    : e);
            if (ReferenceEquals(told, e))
            {
                throw;
            }

            throw told;
        }
    }

    internal override bool Uses(DeviceObject o) => !_isClosing && ReferenceEquals(o, _object);

    private protected override DeviceObject? Used => _object;

    private protected override async Task CloseAsync()
    {
        _isClosing = true; // the revoke below is not to wait for this
        bool isThere = _nic.Nic.Driver.TryWithToken(() =>
        {
            if (_binding is not null)
            {
                _nic.Nic.Device.Unbind(_binding);
            }
        });
        if (isThere && _binding is not null)
        {
            await NetBinding.WhenReleased(Host.Context, _binding.TryAddReleased).ConfigureAwait(false);
        }

        if (_isTemporary && !IsFreed())
        {
            await Host.Objects
                .RevokeAsync(_object, new RevokePolicy { Reason = "it was sent" }).ConfigureAwait(false);
        }
    }

    private async Task<SentContent> RunToEndAsync(IpAddress remote, ushort port, CancellationToken over)
    {
        BindRequest bind = new() { Kind = ImporterKind.PinnedRevocable, Provider = _object.Owner.Function };
        _binding = await NetBinding.BindTransmitAsync(Host, _nic, _object, bind).ConfigureAwait(false);
        string sha256 = await Host.Objects.Sha256Async(_object, over).ConfigureAwait(false);
        long start = Stopwatch.GetTimestamp();
        DevmemConnection connection = await _nic.Nic.ConnectAsync(remote, port, over).ConfigureAwait(false);
        await using (connection.ConfigureAwait(false))
        {
            TimeSpan connecting = Stopwatch.GetElapsedTime(start);
            start = Stopwatch.GetTimestamp();
            try
            {
                await connection.SendAsync(_binding, 0, (long)_object.SizeBytes, over).ConfigureAwait(false);
                TimeSpan elapsed = Stopwatch.GetElapsedTime(start);
                connection.Shutdown();
                await connection.FlushAsync(over).ConfigureAwait(false);
                return new SentContent(_object.SizeBytes, FrameBytes, sha256, connecting, elapsed);
            }
            catch
            {
                connection.AbortIfOpen(); // what is queued holds the memory otherwise
                throw;
            }
        }
    }

    private bool IsFreed()
    {
        using (Host.Context.Enter())
        {
            return _object.Memory.IsFreed;
        }
    }
}
