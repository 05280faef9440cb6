namespace Wayleave.Host.Ethernet;

/// <summary>A TCP port whose connections bring bytes into device memory. One caller accepts at a time.</summary>
public interface IDevmemListener : IDisposable
{
    ushort Port { get; }

    /// <summary>The connection that waited longest; the caller's from now on.</summary>
    /// <exception cref="ObjectDisposedException">The listener is closed.</exception>
    ValueTask<IDevmemConnection> AcceptAsync(CancellationToken cancellation = default);
}
