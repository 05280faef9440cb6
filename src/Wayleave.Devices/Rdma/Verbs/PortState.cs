namespace Wayleave.Devices.Rdma.Verbs;

/// <summary><c>enum ibv_port_state</c>, same numbers; those that an Ethernet port has.</summary>
public enum PortState
{
    Down = 1,
    Active = 4,
}
