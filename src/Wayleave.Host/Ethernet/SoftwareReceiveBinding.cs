using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Ethernet;

/// <summary>A binding of the software NIC. Members take the port token and the host lock themselves.</summary>
internal sealed class SoftwareReceiveBinding : IReceiveBinding
{
    private readonly HostContext _host;
    private readonly HostedNic _nic;
    private readonly Action? _revoked;
    private MemoryBinding? _binding;
    private bool _isDisposed;

    private SoftwareReceiveBinding(HostContext host, HostedNic nic, Action? revoked) =>
        (_host, _nic, _revoked) = (host, nic, revoked);

    public uint Id => Binding.Id;

    public string Name => Binding.Name;

    public ulong LengthBytes => Binding.LengthBytes;

    public int ChunkBytes => Binding.Pool.ChunkBytes;

    public IReadOnlyList<int> Queues { get; private set; } = [];

    public ImporterKind Kind => Binding.Kind;

    public PeerRoute Route => Binding.Route;

    public bool IsRevoked => Binding.IsRevoked;

    private MemoryBinding Binding => _binding!;

    /// <summary>Binds; waits while the memory moves.</summary>
    /// <param name="host">Of both.</param>
    /// <param name="nic">The NIC.</param>
    /// <param name="o">Bound.</param>
    /// <param name="request">How.</param>
    /// <param name="revoked">Told by the NIC's thread, under its token: only marks. Also when it is too late.</param>
    /// <exception cref="WayleaveException">What the NIC, the route or the owner says against it.</exception>
    public static async Task<IReceiveBinding> BindAsync(
        WayleaveHost host, EthernetHandle nic, DeviceObject o, BindRequest request, Action? revoked)
    {
        SoftwareReceiveBinding made = new(host.Context, nic.Nic, revoked) { Queues = [.. request.Queues] };
        nic.Nic.BindingRevoked += made.HandleRevoked;
        try
        {
            made._binding = await NetBinding.BindReceiveAsync(host, nic, o, request).ConfigureAwait(false);
            return made;
        }
        catch
        {
            nic.Nic.BindingRevoked -= made.HandleRevoked;
            throw;
        }
    }

    public async ValueTask DisposeAsync()
    {
        if (_isDisposed)
        {
            return;
        }

        _isDisposed = true;
        _nic.BindingRevoked -= HandleRevoked;
        if (_nic.Driver.TryWithToken(() => _nic.Device.Unbind(Binding)))
        {
            await NetBinding.WhenReleased(_host, Binding.TryAddReleased).ConfigureAwait(false);
        }
    }

    private void HandleRevoked(MemoryBinding binding)
    {
        if (ReferenceEquals(binding, _binding))
        {
            _revoked?.Invoke();
        }
    }
}
